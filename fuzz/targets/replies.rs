//! What the kernel, a message bus and `iptables-save` answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use linux::replies;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => drop(replies::read_datagram(rest)),
        1 => drop(replies::read_body(rest)),
        2 => drop(replies::read_bus_message(rest)),
        _ => drop(replies::read_saved_rules(&String::from_utf8_lossy(rest))),
    }
});
