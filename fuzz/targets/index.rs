//! host-local's index, damaged by anybody, with checksums that are right all the
//! same. Each five bytes are a damage: which of the two files, where, and how.
//!
//! The index is only a hint: whatever it says, ADD gives a free address and DEL
//! releases what the attachment has.

#![no_main]

use cni::{ContainerId, IfName, Network, Plugin as _, Request};
use host_local::HostLocal;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

/// The two files as an ADD for each of some containers has left them, and the
/// leases.
static GOOD: LazyLock<([Vec<u8>; 2], Vec<String>)> = LazyLock::new(|| {
    let root = root();
    let _ = fs::remove_dir_all(&root);
    for id in HOLDERS {
        HostLocal.add(&request(&root, id)).expect("a range with room");
    }
    let files = FILES.map(|name| fs::read(root.join(".oxcni/net").join(name)).expect("it is made"));
    (files, leases(&root))
});
const HOLDERS: [&str; 4] = ["a", "b", "c", "d"];
const FILES: [&str; 2] = ["pages", "owners"];
const HEAD: usize = 96;
const PAGE: usize = 48;

fuzz_target!(|bytes: &[u8]| {
    let (good, before) = &*GOOD;
    let mut files = good.clone();
    let root = root();
    for (address, id) in before.iter().zip(HOLDERS) {
        fs::write(root.join("net").join(address), format!("{id}\r\neth0")).expect("ours");
    }
    for damage in bytes.chunks_exact(5) {
        let file = &mut files[usize::from(damage[0] & 1)];
        let at = usize::from(damage[1]) << 8 | usize::from(damage[2]);
        match damage[0] >> 1 & 3 {
            0 => file.truncate(at),
            1 => file.resize((file.len() + at).min(1 << 16), damage[3]),
            _ => {
                let len = file.len().max(1);
                if let Some(byte) = file.get_mut(at % len) {
                    *byte = if damage[3] & 1 == 0 { damage[4] } else { *byte ^ damage[4] };
                }
            }
        }
    }
    let stamp = seal(&mut files[0]);
    for (name, content) in FILES.iter().zip(&files) {
        fs::write(root.join(".oxcni/net").join(name), content).expect("a folder of ours");
    }
    if let Some(stamp) = stamp {
        let directory = fs::File::open(root.join("net")).expect("there");
        let _ = directory.set_modified(UNIX_EPOCH + Duration::from_nanos(stamp));
    }
    let mine = request(&root, "new");
    let added = HostLocal.add(&mine).expect("the range has room");
    let given = added.ips[0].address.ip().to_string();
    assert!(!before.contains(&given), "{given} is one of {before:?}");
    HostLocal.del(&mine).expect("nothing stands in the way of a DEL");
    assert_eq!(&leases(&root), before);
    // Nothing in the table tells that a byte of it is another; what it has lost is
    // found by the next walk over all leases.
    if &files[1] == &good[1] {
        HostLocal.del(&request(&root, "b")).expect("nothing stands in the way of a DEL");
        assert_eq!(leases(&root).len(), HOLDERS.len() - 1, "of {before:?}");
    }
});

/// Makes the checksums right; answers the modification time it is about.
fn seal(pages: &mut [u8]) -> Option<u64> {
    let body = pages.get(HEAD..)?;
    let sums = body.chunks_exact(PAGE).map(|page| mix(&words(page)));
    let sum = sums.fold(0_u64, u64::wrapping_add);
    pages[80..88].copy_from_slice(&sum.to_le_bytes());
    let own = mix(&words(&pages[..88]));
    pages[88..96].copy_from_slice(&own.to_le_bytes());
    words(&pages[24..32]).first().copied()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks_exact(8).map(word).collect()
}

/// As in ipam/host-local/src/index.rs.
fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |sum, word| {
        let mut x = sum ^ word;
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ x >> 33
    })
}

fn leases(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("net")).expect("there");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("10."))
        .collect();
    names.sort();
    names
}

fn request(root: &Path, id: &str) -> Request {
    let conf = format!(
        r#"{{"cniVersion":"1.1.0","name":"net","type":"x","ipam":{{"type":"host-local",
        "subnet":"10.1.0.0/16","dataDir":{root:?},"lockTimeout":5}}}}"#
    );
    Request {
        network: Network::new(conf.into_bytes(), "/".into(), &[]).expect("valid"),
        container_id: ContainerId::new(id).expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: Some("/proc/self/ns/net".into()),
        args: String::new(),
    }
}

fn root() -> PathBuf {
    PathBuf::from(format!("/dev/shm/oxcni-fuzz-index-{}", std::process::id()))
}
