//! flannel's own: flanneld's `subnet.env`, the configuration, and what an ADD
//! remembered of the delegate's.

#![no_main]
#![expect(dead_code, reason = "only the reading is fuzzed")]

#[path = "../../plugins/flannel/src/conf.rs"]
mod conf;
#[path = "../../plugins/flannel/src/delegate.rs"]
mod delegate;
#[path = "../../plugins/flannel/src/subnet.rs"]
mod subnet;

use libfuzzer_sys::fuzz_target;
use subnet::Lease;

// A subnet file, a NUL byte, a configuration.
fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let lease = Lease::parse(&text).ok();
    if let Some(lease) = &lease {
        assert!(!lease.networks.is_empty() && (1..=2).contains(&lease.subnets.len()));
        assert!(lease.networks.len() <= text.len(), "each is of its own bytes");
    }
    let document = parts.next().unwrap_or_default();
    if let Some(config) = delegate::Config::parse(document) {
        let again = delegate::Config::parse(&config.bytes()).expect("it is valid");
        assert_eq!((again.kind(), again.network()), (config.kind(), config.network()));
    }
    let Ok(network) = cni::Network::new(document.to_vec(), "/".into(), &[]) else { return };
    let teardown = conf::Conf::for_teardown(&network);
    let made = delegate::config(&network, &teardown, None, None);
    assert!(made.is_ok(), "a teardown always has one");
    if let (Ok(conf), Some(lease)) = (conf::Conf::of(&network), &lease)
        && let Ok(config) = delegate::config(&network, &conf, Some(lease), None)
        && let Some(again) = delegate::Config::parse(&config.bytes())
    {
        assert_eq!((again.kind(), again.network()), (config.kind(), config.network()));
    }
});
