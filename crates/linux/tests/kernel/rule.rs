use linux::rule::{self, Rule};
use linux::{Family, IpNetwork};

use crate::host::{in_new_namespace, tool};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

#[test]
fn what_is_added_is_listed_and_deleted() {
    in_new_namespace(|socket| {
        let before = rule::list(socket, None).unwrap();
        assert!(before.iter().any(|rule| rule.family == Family::V6));
        let mut marked = Rule::lookup(Family::V4, 1000)
            .src(net("10.1.0.2/32"))
            .dst(net("10.2.0.0/16"))
            .priority(100);
        marked.fwmark = Some(0x10);
        marked.fwmask = Some(0xff);
        marked.iif = Some("lo".to_owned());
        marked.invert = true;
        let v6 = Rule::lookup(Family::V6, 1001).src(net("fd00::2/128")).priority(101);
        for rule in [&marked, &v6] {
            rule::add(socket, rule).unwrap();
            assert!(rule::add(socket, rule).unwrap_err().is_exists());
            let listed = rule::list(socket, Some(rule.family)).unwrap();
            let listed = listed.iter().find(|one| one.priority == rule.priority).unwrap();
            let without_protocol = Rule { protocol: None, ..listed.clone() };
            assert_eq!(&without_protocol, rule);
        }
        assert_eq!(
            tool("ip rule show priority 100").trim(),
            "100:\tnot from 10.1.0.2 to 10.2.0.0/16 fwmark 0x10/0xff iif lo lookup 1000"
        );
        for rule in [&marked, &v6] {
            rule::delete(socket, rule).unwrap();
            assert!(rule::delete(socket, rule).unwrap_err().is_not_found());
        }
        assert_eq!(rule::list(socket, None).unwrap(), before);
    });
}

#[test]
fn a_rule_for_everything_has_no_addresses() {
    in_new_namespace(|socket| {
        let all = Rule::lookup(Family::V4, 1000).src(net("0.0.0.0/0")).priority(100);
        rule::add(socket, &all).unwrap();
        assert_eq!(tool("ip rule show priority 100").trim(), "100:\tfrom all lookup 1000");
    });
}
