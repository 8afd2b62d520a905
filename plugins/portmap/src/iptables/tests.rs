use super::parse::{Marker, marker, names};
use super::*;

#[test]
fn comments_are_upstreams() {
    assert_eq!(entry_comment("n", "c"), r#"dnat name: "n" id: "c""#);
    assert_eq!(names(&entry_comment("n", "c")), Some(("n", "c")));
    let long = entry_comment("n", &"c".repeat(300));
    assert_eq!(long.len(), linux::iptables::COMMENT_MAX);
    assert!(long.ends_with("..."));
    assert_eq!(names(&long), None);
    assert_eq!(names("name: \"n\" id: \"c\""), None);
}

#[test]
fn a_marker_is_the_first_rule_without_a_target() {
    let key = "0123456789abcdef-0123456789abcdef";
    let mark = Rule::default().comment(format!("{key}, ns: 4026532294 /run/netns/x"));
    let other = Rule::new("-p tcp -m tcp --dport 1").jump("DNAT");
    let found = marker(&[mark.clone(), other.clone()]).expect("it is first");
    assert_eq!(found.owner, key);
    assert_eq!(marker(&[other.clone(), mark.clone()]), None);
    assert_eq!(marker(&[mark.jump("ACCEPT")]), None);
    assert_eq!(Marker::read("CNI portfwd masquerade mark"), None);
    assert!(Marker::read(key).expect("a key is enough").is_alive(None), "nothing says it is dead");
}

#[test]
fn entries_name_their_ports() {
    let rule = Rule::new("! -s 10.0.0.1/32 -p udp -m multiport --dports 1,22 -j CNI-DN-x");
    let is = |protocol, port| parse::is_entry_of(&rule, protocol, port);
    assert!(is(Protocol::UDP, 1) && is(Protocol::UDP, 22));
    assert!(!is(Protocol::UDP, 2) && !is(Protocol::TCP, 1));
    assert!(!parse::is_entry_of(&Rule::new("-p udp -j X"), Protocol::UDP, 1));
}
