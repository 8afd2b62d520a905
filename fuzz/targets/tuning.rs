//! tuning's own: the configuration, a backup of another day, a pattern of the
//! allowlist with a key.

#![no_main]
#![expect(dead_code, reason = "only the reading is fuzzed")]

#[path = "../../plugins/tuning/src/backup.rs"]
mod backup;
#[path = "../../plugins/tuning/src/conf.rs"]
mod conf;
// It has modules of its own, which are looked for in a folder of its name.
#[path = "../../plugins/tuning/src"]
mod plugin {
    pub(crate) mod pattern;
}
#[path = "../../plugins/tuning/src/settings.rs"]
mod settings;
#[path = "../../plugins/tuning/src/sysctl.rs"]
mod sysctl;

use backup::Backup;
use libfuzzer_sys::fuzz_target;
use plugin::pattern::Pattern;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Some(backup) = saved(rest) {
                let again = saved(backup.text().as_bytes());
                assert_eq!(again, Some(backup), "what was read is written and read as it is");
            }
        }
        1 => {
            if let Ok(network) = cni::Network::new(rest.to_vec(), "/".into(), &[]) {
                let _ = conf::Plan::of(&network);
            }
        }
        _ => {
            let text = String::from_utf8_lossy(rest);
            let (pattern, key) = text.split_once('\n').unwrap_or((&text, "net.ipv4.ip_forward"));
            if let Ok(pattern) = Pattern::new(pattern) {
                let _ = pattern.is_found_in(key);
            }
        }
    }
});

fn saved(bytes: &[u8]) -> Option<Backup> {
    Backup::read(&cni::config::parse(bytes).ok()?)
}
