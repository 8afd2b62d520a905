//! What sbr and host-device remember of an attachment.

#![no_main]
#![expect(dead_code, reason = "only the reading is fuzzed")]

#[path = "../../plugins/host-device/src/record.rs"]
mod host_device;
#[path = "../../plugins/sbr/src/record.rs"]
mod sbr;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<host_device::Record>(bytes) {
        let text = serde_json::to_vec(&record).expect("plain data");
        assert_eq!(serde_json::from_slice(&text).ok(), Some(record));
    }
    if let Some(record) = of_sbr(bytes) {
        assert_eq!(of_sbr(record.text().as_bytes()), Some(record));
    }
});

fn of_sbr(bytes: &[u8]) -> Option<sbr::Record> {
    sbr::Record::read(&cni::config::parse(bytes).ok()?)
}
