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
