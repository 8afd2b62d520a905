//! Which of the links here is the device? Its name is the application's to
//! change, and so are address and alias; a kernel that ends a namespace gives
//! hardware yet another name.

use crate::record::Device;
use linux::link::Link;

/// Could it be the device at all? Neither the kind of a link nor the address
/// burnt into it can be changed.
pub(crate) fn is_of_the_make(device: &Device, link: &Link) -> bool {
    link.kind == device.kind && link.perm_mac.map(|mac| mac.to_string()) == device.permanent_mac
}

fn has_mac(device: &Device, link: &Link) -> bool {
    device.mac.is_some() && link.mac.map(|mac| mac.to_string()) == device.mac
}

/// In the container it carries its name on the host as alias, as the reference
/// plugin has it.
pub(crate) fn is_marked(device: &Device, link: &Link) -> bool {
    link.alias.as_deref() == Some(device.name.as_str())
}

/// Is `link`, which has the device's name on the host, the device?
pub(crate) fn is_at_home(device: &Device, link: &Link) -> bool {
    link.name == device.name
        && is_of_the_make(device, link)
        && (device.permanent_mac.is_some()
            || is_marked(device, link)
            || (link.index == device.index && has_mac(device, link)))
}

/// The device among the links of the container it was lent to as `ifname`.
pub(crate) fn in_container<'l>(
    device: &Device,
    ifname: &str,
    links: &'l [Link],
) -> Option<&'l Link> {
    let by = |rule: &dyn Fn(&Link) -> bool| {
        links.iter().find(|link| is_of_the_make(device, link) && rule(link))
    };
    // An index is not given to another link before 2^31 others had theirs
    // (dev_index_reserve, net/core/dev.c at v6.18).
    by(&|link| device.container_index == Some(link.index))
        .or_else(|| by(&|link| is_marked(device, link)))
        .or_else(|| by(&|link| link.perm_mac.is_some()))
        // Killed between the move and its record, and the alias is gone.
        .or_else(|| by(&|link| has_mac(device, link) && link.name == ifname))
}

/// The device among the host's links after the kernel ended its namespace:
/// under the name it had there, or `dev` and its index where that was taken
/// (`default_device_exit_net`, net/core/dev.c at v6.18).
pub(crate) fn returned<'l>(device: &Device, ifname: &str, links: &'l [Link]) -> Option<&'l Link> {
    let by = |rule: &dyn Fn(&Link) -> bool| {
        links.iter().find(|link| is_of_the_make(device, link) && rule(link))
    };
    by(&|link| is_marked(device, link)).or_else(|| by(&|link| link.perm_mac.is_some())).or_else(
        || by(&|link| has_mac(device, link) && (link.name == ifname || is_fallback(&link.name))),
    )
}

/// `dev7`: what the kernel calls a link whose name is taken.
pub(crate) fn is_fallback(name: &str) -> bool {
    name.strip_prefix("dev")
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURNT_IN: &str = "00:16:3e:00:00:01";
    const OWN: &str = "02:00:5e:10:00:01";

    fn hardware(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: OWN.parse().ok(),
            perm_mac: BURNT_IN.parse().ok(),
            ..Link::default()
        }
    }

    fn veth(index: u32, name: &str) -> Link {
        Link { perm_mac: None, kind: Some("veth".into()), ..hardware(index, name) }
    }

    fn lent(link: &Link, container_index: Option<u32>) -> Device {
        Device { container_index, ..Device::of(link, None) }
    }

    fn index(link: Option<&Link>) -> Option<u32> {
        link.map(|link| link.index)
    }

    #[test]
    fn an_application_can_change_all_it_may() {
        let device = lent(&veth(7, "ens5"), Some(9));
        let other = Link { mac: None, alias: Some("mine".into()), ..veth(9, "renamed") };
        let links =
            [veth(2, "ens5"), Link { kind: Some("dummy".into()), ..veth(8, "eth0") }, other];
        assert_eq!(index(in_container(&device, "eth0", &links)), Some(9));
    }

    #[test]
    fn killed_before_the_index_was_recorded() {
        let device = lent(&veth(7, "ens5"), None);
        let strangers = [veth(7, "net1"), Link { mac: None, ..veth(8, "eth0") }];
        assert_eq!(index(in_container(&device, "eth0", &strangers)), None);
        let marked = Link { alias: Some("ens5".into()), mac: None, ..veth(3, "x") };
        assert_eq!(index(in_container(&device, "eth0", &[veth(2, "eth0"), marked])), Some(3));
        assert_eq!(index(in_container(&device, "eth0", &[veth(4, "eth0")])), Some(4));
        let burnt_in = Link { mac: None, ..hardware(5, "x") };
        let device = lent(&hardware(7, "ens5"), None);
        assert_eq!(index(in_container(&device, "eth0", &[burnt_in])), Some(5));
    }

    #[test]
    fn home_is_told_from_a_stranger_of_the_same_name() {
        let device = lent(&veth(7, "ens5"), None);
        assert!(is_at_home(&device, &veth(7, "ens5")));
        assert!(!is_at_home(&device, &veth(8, "ens5")));
        assert!(!is_at_home(&device, &Link { mac: None, ..veth(7, "ens5") }));
        assert!(!is_at_home(&device, &hardware(7, "ens5")));
        let device = lent(&hardware(7, "ens5"), Some(7));
        assert!(is_at_home(&device, &hardware(12, "ens5")));
        assert!(!is_at_home(&device, &Link { perm_mac: None, ..hardware(7, "ens5") }));
    }

    #[test]
    fn what_the_kernel_gave_back_has_another_name() {
        let device = lent(&hardware(7, "ens5"), Some(7));
        let changed = Link { mac: None, alias: None, ..hardware(31, "dev31") };
        assert_eq!(index(returned(&device, "eth0", &[changed])), Some(31));
        let device = lent(&Link { perm_mac: None, ..hardware(7, "can0") }, Some(7));
        let plain = |index, name| Link { perm_mac: None, ..hardware(index, name) };
        assert_eq!(index(returned(&device, "eth0", &[plain(8, "dev8")])), Some(8));
        assert_eq!(index(returned(&device, "eth0", &[plain(8, "eth0")])), Some(8));
        assert_eq!(index(returned(&device, "eth0", &[plain(8, "devil")])), None);
        assert_eq!(index(returned(&device, "eth0", &[plain(8, "dev")])), None);
    }
}
