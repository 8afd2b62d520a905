use linux::{link, sysctl};

use crate::host::{in_new_namespace, veth_pair};

#[test]
fn only_a_different_value_is_written_in_the_threads_namespace() {
    in_new_namespace(|socket| {
        // An interface name with a dot is one component.
        veth_pair(socket, "a.5", "b");
        let name = ["net", "ipv6", "conf", "a.5", "accept_dad"];
        assert_eq!(sysctl::read(&name).unwrap(), "1");
        assert!(sysctl::write(&name, "0").unwrap());
        assert_eq!(sysctl::read(&name).unwrap(), "0");
        assert!(!sysctl::write(&name, "0").unwrap());
        let index = link::get(socket, "a.5").unwrap().index;
        link::delete(socket, index).unwrap();
        let error = sysctl::write(&name, "0").unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(
            error.to_string().starts_with("set sysctl net/ipv6/conf/a.5/accept_dad to 0: "),
            "{error}"
        );
    });
}

#[test]
fn a_value_the_kernel_refuses_is_an_error() {
    in_new_namespace(|_| {
        let error = sysctl::write(&["net", "ipv4", "ip_forward"], "yes").unwrap_err();
        assert_eq!(error.kind(), linux::ErrorKind::Invalid, "{error}");
    });
}

#[test]
fn all_parameters_of_a_link_are_read_at_once_and_come_back() {
    in_new_namespace(|socket| {
        let (near, _) = veth_pair(socket, "near", "far");
        let before = link::conf(socket, near.index).unwrap();
        assert!(before.ipv4.len() >= 32 && before.ipv6.len() >= 50, "{before:?}");
        // From both ends of the lists: no place in them is another's.
        let changes = [
            ("ipv4", "proxy_arp", "1"),
            ("ipv4", "rp_filter", "2"),
            ("ipv4", "arp_ignore", "8"),
            ("ipv4", "drop_gratuitous_arp", "1"),
            ("ipv6", "hop_limit", "33"),
            ("ipv6", "accept_ra", "0"),
            ("ipv6", "router_solicitations", "-1"),
            ("ipv6", "max_addresses", "17"),
            ("ipv6", "accept_dad", "2"),
            ("ipv6", "suppress_frag_ndisc", "0"),
            ("ipv6", "keep_addr_on_down", "1"),
            ("ipv6", "enhanced_dad", "0"),
            ("ipv6", "addr_gen_mode", "1"),
            ("ipv6", "ndisc_tclass", "7"),
        ];
        let read = || -> Vec<String> {
            let value = |(family, name, _): &(&str, &str, &str)| {
                sysctl::read(&["net", family, "conf", "near", name]).unwrap()
            };
            changes.iter().map(value).collect()
        };
        let values = read();
        for (family, name, value) in changes {
            sysctl::write(&["net", family, "conf", "near", name], value).unwrap();
        }
        let changed = link::conf(socket, near.index).unwrap();
        assert_ne!(changed, before);
        link::restore_conf_v4(socket, near.index, &changed, &before).unwrap();
        let refused = link::restore_conf_v6("near", &changed, &before);
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(read(), values);
        assert_eq!(link::conf(socket, near.index).unwrap(), before);
    });
}
