use super::*;
use cni::Code;

fn selection(keys: &str) -> Result<Option<Selection>> {
    let text = format!(r#"{{"name":"n"{keys}}}"#);
    Selection::of(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"))
}

fn selected(keys: &str) -> Selection {
    selection(keys).expect("valid").expect("one is named")
}

#[test]
fn the_first_key_that_is_given_names_the_link() {
    let name = || Some(LinkSelector::Name("ens5".into()));
    let mac = || Some(LinkSelector::Mac("02:00:5e:10:00:01".parse().expect("valid")));
    let path = "/sys/devices/pci0000:00/0000:00:19.0";
    let kernel_path = || Some(LinkSelector::KernelPath(path.into()));
    let keys = [
        r#","device":"ens5""#.to_owned(),
        r#","hwaddr":"02:00:5E:10:00:01""#.to_owned(),
        format!(r#","kernelpath":"{path}""#),
    ];
    for (from, link) in [name(), mac(), kernel_path()].into_iter().enumerate() {
        assert_eq!(selected(&keys[from..].concat()), Selection { link, bus: None });
    }
    assert_eq!(selection("").expect("valid"), None);
    assert_eq!(selection(r#","device":"","runtimeConfig":null"#).expect("valid"), None);
}

#[test]
fn the_runtimes_device_replaces_the_configured_bus_address_alone() {
    let pci = r#","pciBusID":"0000:00:1f.6""#;
    let id = r#","RuntimeConfig":{"DeviceID":"mlx5_core.sf.4"}"#;
    assert_eq!(selected(pci).bus, Some(BusSelector::Pci("0000:00:1f.6".into())));
    let both = selected(&format!(r#","device":"ens5"{pci}{id}"#));
    assert_eq!(both.bus, Some(BusSelector::DeviceId("mlx5_core.sf.4".into())));
    assert_eq!(both.link, Some(LinkSelector::Name("ens5".into())));
}

#[test]
fn what_is_malformed_is_named() {
    for (keys, culprit) in [
        (r#","device":5"#, "device"),
        (r#","hwaddr":"02:00""#, "hwaddr"),
        (r#","kernelpath":"/sys/class/net/x""#, "must be absolute and begin with /sys/devices/"),
        (r#","kernelpath":"/sys/devices/../class""#, "kernelpath"),
        (r#","kernelpath":"sys/devices/x""#, "kernelpath"),
        (r#","pciBusID":"../../x""#, "pciBusID"),
        (r#","pciBusID":"..""#, "pciBusID"),
        (r#","runtimeConfig":{"deviceID":"a/b"}"#, "runtimeConfig.deviceID"),
        (r#","disableIPv6WhenUnused":1"#, "disableIPv6WhenUnused"),
        (r#","runtimeConfig":{"deviceID":7}"#, "runtimeConfig.deviceID"),
    ] {
        let error = selection(keys).expect_err(keys);
        assert_eq!(error.code(), Code::INVALID_CONFIG);
        assert!(error.msg().contains(culprit), "{keys}: {error}");
    }
}
