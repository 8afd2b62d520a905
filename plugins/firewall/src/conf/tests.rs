use super::*;
use std::ffi::OsString;

const INTERFACES: &str = r#""interfaces": [{"name": "cni0"}, {"name": "veth1"},
    {"name": "eth0", "sandbox": "/run/netns/x"}]"#;
const IPS: &str = r#""ips": [{"address": "10.1.0.2/24", "interface": 2},
    {"address": "fd00::2/64", "interface": 2}, {"address": "10.1.0.2/16"}]"#;
/// Of no interface.
const UNBOUND: &str = r#""ips": [{"address": "10.1.0.2/24"}]"#;

fn request(keys: &str, result: &str) -> Request {
    let comma = if keys.is_empty() { "" } else { ", " };
    let raw = format!(
        r#"{{"cniVersion": "1.1.0", "name": "net", "type": "firewall",
            "prevResult": {{"cniVersion": "1.1.0", {result}}}{comma}{keys}}}"#
    );
    Request {
        network: Network::new(raw.into_bytes(), OsString::new(), &[]).expect("valid"),
        container_id: cni::ContainerId::new("ctr").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: None,
        args: String::new(),
    }
}

fn plan(keys: &str) -> Result<Plan> {
    plan_behind(keys, &format!("{INTERFACES}, {IPS}"))
}

fn plan_behind(keys: &str, result: &str) -> Result<Plan> {
    let request = request(keys, result);
    let result = request.prev_result().expect("valid").expect("given");
    Plan::new(&request, &result)
}

#[test]
fn defaults() {
    let plan = plan("").expect("valid");
    assert_eq!((plan.named, plan.isolation.clone()), (None, None));
    assert_eq!((plan.admin_chain.as_str(), plan.zone.as_str()), ("CNI-ADMIN", "trusted"));
    assert_eq!(plan.of(Family::V4), ["10.1.0.2".parse::<IpAddr>().expect("an address")]);
    assert_eq!(plan.of(Family::V6).len(), 1);
    assert!(plan.deny.is_empty() && plan.allow.is_empty());
}

#[test]
fn policies() {
    let isolation =
        |policy: &str| plan(&format!(r#""ingressPolicy": "{policy}""#)).map(|plan| plan.isolation);
    assert_eq!(isolation(""), Ok(None));
    assert_eq!(isolation("open"), Ok(None));
    for (text, policy) in [("same-bridge", Policy::SameBridge), ("isolated", Policy::Isolated)] {
        let bridge = "cni0".to_owned();
        assert_eq!(isolation(text), Ok(Some(Isolation { bridge, policy })));
    }
    let error = isolation("Same-Bridge").expect_err("letters count");
    assert!(error.msg().contains("unknown ingress policy"), "{error}");
    for (result, culprit) in [
        (IPS.replace("\"interface\": 2", "\"interface\": null"), "make sure to chain"),
        (format!("{}, {IPS}", INTERFACES.replace("cni0", "")), "needs a bridge"),
        (format!("{}, {IPS}", INTERFACES.replace("cni0", "a,b")), "needs a bridge"),
        (
            format!(
                r#""interfaces": [{{"name": "eth0", "sandbox": "/x"}}], {}"#,
                IPS.replace("2}", "0}")
            ),
            "needs a bridge",
        ),
    ] {
        let error = plan_behind(r#""ingressPolicy": "isolated""#, &result).expect_err(culprit);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG);
        assert!(error.msg().contains(culprit), "{error}");
        assert!(plan_behind("", &result).is_ok(), "an open one needs no bridge");
    }
}

#[test]
fn backends() {
    let named = |keys: &str| plan(keys).map(|plan| plan.named);
    let rules = |backend| Ok(Some(Named::Rules(backend)));
    assert_eq!(named(r#""backend": """#), Ok(None));
    assert_eq!(named(r#""backend": "nftables""#), rules(Backend::Nftables));
    assert_eq!(named(r#""backend": "iptables""#), rules(Backend::Iptables));
    assert_eq!(named(r#""backend": "firewalld""#), Ok(Some(Named::Firewalld)));
    assert_eq!(named(r#""denyCIDRs": ["10.0.0.0/8"]"#), Ok(None));
    let both = r#""backend": "iptables", "denyCIDRs": ["10.0.0.0/8"]"#;
    assert_eq!(named(both), rules(Backend::Iptables));
    for (keys, culprit) in [
        (r#""backend": "ebtables""#, "unknown backend \"ebtables\""),
        (r#""allowCIDRs": ["::/0"]"#, "exceptions from denyCIDRs"),
        (r#""denyCIDRs": ["::/0", "10.0.0.1"]"#, "denyCIDRs[1]: invalid CIDR address"),
        (r#""denyCIDRs": "::/0""#, "denyCIDRs: "),
        (r#""iptablesAdminChainName": "0123""#, "must be a letter"),
        (r#""iptablesAdminChainName": "ABCDEFGHIJKLMNOPQRSTUVWXYZ012""#, "must be a letter"),
        (r#""iptablesAdminChainName": "MY CHAIN""#, "must be a letter"),
        (r#""iptablesAdminChainName": "-MINE""#, "must be a letter"),
        (r#""iptablesAdminChainName": "!MINE""#, "must be a letter"),
        (r#""iptablesAdminChainName": "ACCEPT""#, "iptables itself"),
        (r#""iptablesAdminChainName": "RETURN""#, "iptables itself"),
        (r#""iptablesAdminChainName": "FORWARD""#, "iptables itself"),
        (r#""iptablesAdminChainName": "REJECT""#, "iptables itself"),
        (r#""iptablesAdminChainName": "CNI-ISOLATION-STAGE-1""#, "chain of this plugin"),
        (r#""iptablesAdminChainName": "egress_x""#, "chain of this plugin"),
        (r#""iptablesAdminChainName": "CNI-FORWARD""#, "chain of this plugin"),
        (r#""firewalldZone": "a\"b""#, "firewalldZone"),
    ] {
        let error = named(keys).expect_err(keys);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG, "{keys}");
        assert!(error.msg().contains(culprit), "{keys}: {error}");
    }
}

#[test]
fn lists_are_without_host_bits() {
    let plan = plan(r#""denyCIDRs": ["10.1.2.3/8", "::1/64", "10.0.0.0/8"]"#).expect("valid");
    let deny: Vec<String> = plan.deny.iter().map(IpNetwork::to_string).collect();
    assert_eq!(deny, ["10.0.0.0/8", "::/64"]);
}

#[test]
fn teardown_reads_what_it_can() {
    let result = format!("{INTERFACES}, {IPS}");
    let hints = |keys: &str, result: &str| Hints::of(&request(keys, result));
    let all = hints(r#""ingressPolicy": "nonsense", "firewalldZone": "z""#, &result);
    assert!(all.firewalld && all.zone == "z" && all.addresses.len() == 3);
    assert_eq!(all.bridge.as_deref(), Some("cni0"));
    assert_eq!(hints("", &result).bridge, None);
    assert!(!hints(r#""backend": "nftables""#, &result).firewalld);
    let broken = hints(r#""denyCIDRs": 5"#, r#""ips": 5"#);
    assert!(broken.addresses.is_empty() && broken.zone == "trusted");
}

#[test]
fn words_of_a_record_are_read_back() {
    use crate::nftables::{Claimant, Container};
    let network = cni::NetworkName::new("net").expect("valid");
    let attachment = cni::AttachmentId { container_id: "c".repeat(100), ifname: "eth0".into() };
    let owner = attach::chained::Owner::new(&network, &attachment);
    let isolation = Isolation { bridge: "br-0123456789ab".to_owned(), policy: Policy::SameBridge };
    let mut plan = plan_behind("", UNBOUND).expect("valid");
    plan.isolation = Some(isolation.clone());
    let address = "10.1.0.2".parse().expect("an address");
    for beside in [false, true] {
        let (container_id, zone) = (attachment.container_id.as_str(), Some("nm-shared"));
        let claimant = Claimant { plan: &plan, owner: &owner, container_id, zone, beside };
        let words = owner.comment_with(&claimant.words("iptables"));
        assert_eq!(words.contains("with: iptables"), beside, "{words}");
        let read = Container::parse(address, &words).expect("ours");
        assert_eq!(read.owner, owner.key());
        assert_eq!((read.isolation.as_ref(), read.zone.as_deref()), (Some(&isolation), zone));
    }
    assert_eq!(Container::parse(address, "somebody's"), None);
}

#[test]
fn hardware_addresses() {
    let macs = |interfaces: &str| {
        let plan = plan_behind("", &format!(r#""interfaces": [{interfaces}], {UNBOUND}"#));
        plan.expect("valid").macs.iter().map(Mac::to_string).collect::<Vec<_>>()
    };
    let container = |mac: &str| format!(r#"{{"name": "e", "mac": "{mac}", "sandbox": "/n"}}"#);
    let own = container("02:00:00:00:00:0A");
    let host = r#"{"name": "cni0", "mac": "02:00:00:00:00:01"}"#;
    assert_eq!(macs(&format!("{host}, {own}")), ["02:00:00:00:00:0a"]);
    assert_eq!(macs(&format!("{own}, {host}, {own}")), ["02:00:00:00:00:0a"]);
    let other = container("02:00:00:00:00:0b");
    assert_eq!(macs(&format!("{host}, {own}, {other}")).len(), 2);
    // As ipvlan, which has its parent's.
    assert_eq!(macs(&own), [""; 0]);
    assert_eq!(macs(host), [""; 0]);
    for none in ["", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "80:00:02:08:fe:80:00:00", "x"] {
        assert_eq!(macs(&format!("{host}, {}", container(none))), [""; 0], "{none}");
    }
}

#[test]
fn nothing_to_do() {
    let is_empty = |keys: &str, interfaces: &str, ips: &str| {
        let plan = plan_behind(keys, &format!("{interfaces}, {ips}"));
        plan.expect("valid").is_empty()
    };
    let (deny, no_ips) = (r#""denyCIDRs": ["10.0.0.0/8"]"#, r#""ips": []"#);
    let with_mac = INTERFACES.replace(r#""eth0""#, r#""eth0", "mac": "02:00:00:00:00:0a""#);
    assert!(!is_empty("", INTERFACES, IPS));
    assert!(is_empty("", &with_mac, no_ips));
    assert!(is_empty(deny, INTERFACES, no_ips));
    assert!(!is_empty(deny, &with_mac, no_ips));
}
