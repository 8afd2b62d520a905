//! What the transactions of `linux::nft` write is what `nft` prints, and what
//! they print is what `nft` writes. Each test runs in network namespaces of its
//! own, which end with it. Needs root and the `nft` command.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall panic")]

mod rules;
mod sets;
mod transactions;

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use linux::IpNetwork;
use linux::link::Mac;
use linux::nft::{Rule, Ruleset, Socket, Transaction};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a new network namespace, which dies with the thread.
fn in_namespace<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: run as root");
        run()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `nft` in the thread's namespace.
fn nft(args: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the nft command, from the package nftables");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("nft reads its input");
    let output = child.wait_with_output().expect("nft ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {args:?} said {errors}to\n{input}");
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}

/// Applies a transaction by netlink in one namespace and by `nft` in another:
/// the results are the same, to `nft` and to us. Answers the ruleset.
fn both_ways(transaction: &Transaction) -> Ruleset {
    let by_nft = in_namespace({
        let text = transaction.to_string();
        move || {
            nft(&["-f", "-"], &text);
            let listed = nft(&["list", "ruleset"], "");
            let read = Socket::open().unwrap().ruleset(None).unwrap();
            assert_eq!(read.to_string(), listed, "read of what nft wrote");
            read
        }
    });
    let ours = in_namespace({
        let transaction = transaction.clone();
        move || {
            let socket = Socket::open().unwrap();
            socket.commit(&transaction).unwrap_or_else(|error| panic!("{error}"));
            let read = socket.ruleset(None).unwrap();
            assert_eq!(read.to_string(), nft(&["list", "ruleset"], ""), "read of what we wrote");
            let handles = format!("{read:#}");
            assert_eq!(handles, nft(&["-a", "list", "ruleset"], ""), "the same with handles");
            read
        }
    });
    assert_eq!(ours.to_string(), by_nft.to_string(), "what nft made of\n{transaction}");
    for (ours, theirs) in rules_of(&ours).zip(rules_of(&by_nft)) {
        assert_eq!(ours.statements, theirs.statements, "{ours}");
    }
    ours
}

fn rules_of(ruleset: &Ruleset) -> impl Iterator<Item = &Rule> {
    ruleset.tables.iter().flat_map(|table| &table.chains).flat_map(|(_, rules)| rules)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

fn mac(last: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, last])
}
