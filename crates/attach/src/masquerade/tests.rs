use super::*;
use crate::identity::digest;

fn attachment(container_id: &str, ifname: &str) -> AttachmentId {
    AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
}

/// The reference plugins' chain of `ctr1` on `rcnet` begins so
/// (`utils.MustFormatChainNameWithPrefix`).
#[test]
fn hashes_are_the_first_digits_of_sha512() {
    assert_eq!(digest("rcnetctr1", 21), "183a3a9dc2408ec059074");
    assert_eq!(digest("net", 16), "a4861f4ae9f7d238");
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(cut("abc", 5), "abc");
    assert_eq!(cut("abc", 2), "ab");
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("", 0), "");
}

#[test]
fn subnets_have_no_host_bits() {
    for (address, wanted) in [
        ("10.1.2.3/16", "10.1.0.0/16"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("2001:db8::5/64", "2001:db8::/64"),
        ("10.1.2.3/0", "0.0.0.0/0"),
    ] {
        let address: IpNetwork = address.parse().expect("an address");
        assert_eq!(subnet(address).to_string(), wanted);
    }
}

#[test]
fn a_configuration_may_name_a_backend() {
    let read = |text: &str| {
        let text = format!("{{\"name\":\"n\",\"cniVersion\":\"1.0.0\"{text}}}");
        let network = Network::new(text.into_bytes(), "".into(), &[]).expect("a network");
        Masquerade::of(&network).map(|wanted| wanted.map(|wanted| wanted.named))
    };
    assert_eq!(read(""), Ok(None));
    assert_eq!(read(r#","ipMasq":true"#), Ok(Some(None)));
    assert_eq!(read(r#","ipMasq":true,"ipMasqBackend":null"#), Ok(Some(None)));
    let named = |backend| Ok(Some(Some(backend)));
    assert_eq!(read(r#","ipMasq":true,"ipMasqBackend":"nftables""#), named(Backend::Nftables));
    assert_eq!(read(r#","IPMASQ":true,"ipMasqBackend":"iptables""#), named(Backend::Iptables));
    // Nobody asks for it.
    assert_eq!(read(r#","ipMasqBackend":"x""#), Ok(None));
    for bad in [r#""x""#, r#""""#, "5", "[]"] {
        let error = read(&format!(r#","ipMasq":true,"ipMasqBackend":{bad}"#)).expect_err(bad);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG, "{bad}");
    }
}

#[test]
fn attachments_and_networks_are_told_apart() {
    let network = |name: &str| NetworkName::new(name).expect("a name");
    let (net, net2) = (network("net"), network("net2"));
    let (one, two) = (attachment("c", "eth0"), attachment("c", "eth1"));
    let marks = [(&net, &one), (&net, &two), (&net2, &one)]
        .map(|(network, attachment)| nftables::mark(Owner { network, attachment }));
    assert!(marks.iter().all(|mark| mark.len() == 33));
    assert!(marks[0] != marks[1] && marks[0] != marks[2] && marks[1] != marks[2]);
}
