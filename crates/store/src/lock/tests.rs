use super::*;
use crate::Kind;
use crate::dir::tests::Temporary;
use std::process::{Command, Stdio};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_lock_ends_with_its_value() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    // Long, because a test that starts a child lends it all files for a moment.
    let first = Lock::take(&dir, "lock", 0o600, LONG).expect("nobody has it");
    assert_eq!(dir.kind("lock").expect("readable"), Some(Kind::Plain));
    let refused = Lock::take(&dir, "lock", 0o600, Duration::ZERO).expect_err("it is held");
    assert!(refused.is_timed_out(), "{refused}");
    drop(first);
    Lock::take(&dir, "lock", 0o600, LONG).expect("it was given back");
    Lock::take(&dir, "lock", 0o600, Duration::MAX).expect("no wait is too long");
}

#[test]
fn whoever_holds_it_too_long_is_named() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let held = Lock::take(&dir, "lock", 0o600, LONG).expect("nobody has it");
    let error = Lock::take(&dir, "lock", 0o600, SHORT).expect_err("it is held");
    drop(held);
    let text = error.to_string();
    let own = std::fs::read_to_string("/proc/self/comm").expect("on Linux");
    let holder = format!("by process {} ({})", std::process::id(), own.trim_end());
    assert!(text.contains(&holder) && text.contains("after 0.05 s"), "{text}");
    assert!(text.contains(&temporary.path().join("lock").display().to_string()), "{text}");
}

/// A child inherits the lock, but the kernel tells who took it.
#[test]
fn a_holder_that_has_ended_is_told_as_such() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let script = "exec 9>lock; flock 9; sleep 600 >&- 2>&- & echo $!";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(temporary.path())
        .output()
        .expect("util-linux is installed");
    let child = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = Lock::take(&dir, "lock", 0o600, SHORT).expect_err("it is held");
    let ended = Command::new("kill").arg(child).status().expect("there is a shell's");
    assert!(ended.success());
    let text = error.to_string();
    assert!(text.contains("a child of a process that has ended"), "{text}");
    Lock::take(&dir, "lock", 0o600, LONG).expect("it was given back");
}

#[test]
fn several_share_it_and_nobody_has_it_alone_meanwhile() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let first = Lock::share(&dir, "lock", 0o600, LONG).expect("nobody has it");
    let second = Lock::share(&dir, "lock", 0o600, SHORT).expect("it is shared");
    drop(first);
    let refused = Lock::take(&dir, "lock", 0o600, SHORT).expect_err("it is shared");
    assert!(refused.is_timed_out(), "{refused}");
    drop(second);
    let alone = Lock::take(&dir, "lock", 0o600, LONG).expect("it was given back");
    let refused = Lock::share(&dir, "lock", 0o600, SHORT).expect_err("it is held");
    drop(alone);
    let text = refused.to_string();
    assert!(text.contains(&format!("by process {} ", std::process::id())), "{text}");
}

#[test]
fn a_waiter_gets_it_when_the_holder_lets_go() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let held = Lock::take(&dir, "lock", 0o600, LONG).expect("nobody has it");
    let again = temporary.open();
    let waiter = std::thread::spawn(move || Lock::take(&again, "lock", 0o600, LONG).map(drop));
    // Released only when the kernel shows somebody who waits.
    let stat = fstat(open(&dir, OsStr::new("lock"), 0, dir.path()).expect("there")).expect("there");
    let inode = format!(":{} ", stat.st_ino);
    let begin = Instant::now();
    let waits = |line: &str| line.contains("->") && line.contains(&inode);
    while !std::fs::read_to_string("/proc/locks").expect("on Linux").lines().any(waits) {
        assert!(begin.elapsed() < LONG, "nobody waits");
        std::thread::yield_now();
    }
    drop(held);
    waiter.join().expect("no panic").expect("it was let go");
}

#[test]
fn a_lock_file_removed_meanwhile_is_made_again() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let held = Lock::take(&dir, "lock", 0o600, LONG).expect("nobody has it");
    dir.remove("lock").expect("removable");
    let second = Lock::take(&dir, "lock", 0o600, LONG).expect("another file");
    drop(held);
    assert!(Lock::take(&dir, "lock", 0o600, Duration::ZERO).is_err(), "the second one counts");
    drop(second);
}

#[test]
fn flock_of_another_program_is_respected() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    drop(Lock::take(&dir, "lock", 0o600, LONG).expect("nobody has it"));
    let path = temporary.path().join("lock");
    // flock(1) says so when it has the lock, and keeps it until its input ends.
    let mut child = Command::new("flock")
        .arg(&path)
        .args(["sh", "-c", "echo locked; read -r end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut said = String::new();
    let output = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said).expect("readable");
    assert_eq!(said, "locked\n");
    let refused = Lock::take(&dir, "lock", 0o600, Duration::ZERO).expect_err("it is held");
    assert!(refused.is_timed_out(), "{refused}");
    drop(child.stdin.take());
    child.wait().expect("it ends");
    Lock::take(&dir, "lock", 0o600, LONG).expect("it was given back");
}

#[test]
fn a_link_is_no_lock() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    std::os::unix::fs::symlink("/dev/null", temporary.path().join("link")).expect("made");
    assert!(Lock::take(&dir, "link", 0o600, SHORT).expect_err("a link").is_not_plain());
    let missing = Lock::take(&dir, "no/lock", 0o600, SHORT).expect_err("no such directory");
    assert!(missing.is_not_found(), "{missing}");
}

#[test]
fn holders_are_read_from_the_list_of_locks() {
    let temporary = Temporary::new();
    drop(Lock::take(&temporary.open(), "lock", 0o600, LONG).expect("nobody has it"));
    let file = File::open(temporary.path().join("lock")).expect("there");
    let mut stat = fstat(&file).expect("there");
    (stat.st_dev, stat.st_ino) = (nix::sys::stat::makedev(0xfe, 1), 1523);
    let locks = "1: POSIX  ADVISORY  WRITE 1 fe:01:1523 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 2 fe:01:152 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE 3 00:13:1523 0 EOF\n\
                 4: FLOCK  ADVISORY  WRITE 4 fe:01:1523 0 EOF\n\
                 4: -> FLOCK  ADVISORY  WRITE 5 fe:01:1523 0 EOF\n";
    assert_eq!(holder(locks, &stat), Some(4));
    // Where the device is another one, the inode decides.
    stat.st_dev = nix::sys::stat::makedev(7, 7);
    assert_eq!(holder(locks, &stat), Some(3));
    assert_eq!(holder("", &stat), None);
    assert_eq!(holder("nonsense\n1: FLOCK x\n", &stat), None);
}
