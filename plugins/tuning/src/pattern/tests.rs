use super::*;
use proptest::prelude::*;

#[track_caller]
fn found(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).is_found_in(text)
}

#[test]
fn patterns_of_real_lists() {
    let key = "net.ipv4.conf.IFNAME.arp_accept";
    for pattern in [
        "^net.ipv4.conf.IFNAME.arp_accept$",
        r"^net\.ipv4\.conf\.IFNAME\.[a-z_]*$",
        r"^net\.ipv[46]\.(conf|neigh)\.IFNAME\.",
        "arp_",
        "",
        r"^net[./]ipv4[./].+$",
        r"(?i)NET\.IPV4",
        r"^(?:net\.core\.|net\.ipv4\.conf)",
        r"^net(\.\w+){4}$",
        r"\Anet\Q.ipv4.\Econf\b.*\z",
        r"^[[:lower:]]+\.ipv\d\.[^/]{5,}t$",
        r"^(?P<all>.*)$",
        r"^n.*?t$",
        r"^net\.ipv4\.conf\.IFNAME\.(a|b|arp_(accept|notify))$",
    ] {
        assert!(found(pattern, key), "{pattern}");
    }
    for pattern in [
        "^net.ipv4.conf.IFNAME.arp_accept_x$",
        "^ipv4",
        "conf$",
        r"^net\.ipv4\.conf\.IFNAME\.[a-z]*$",
        r"^net(\.\w+){5}$",
        r"^net(\.\w+){1,3}$",
        "NET",
        r"(?i:x)net",
        r"\bpv4",
        r"a\Barp",
        "a{3}",
        r"[^\w.]",
    ] {
        assert!(!found(pattern, key), "{pattern}");
    }
}

#[test]
fn what_is_repeated() {
    for (pattern, yes, no) in [
        ("^a*$", "aaa", "aab"),
        ("^a+$", "a", ""),
        ("^ab?c$", "ac", "abbc"),
        ("^a{2}$", "aa", "aaa"),
        ("^a{2,}$", "aaaa", "a"),
        ("^a{0,2}$", "", "aaa"),
        ("^(a|b)*c$", "abbac", "abxc"),
        ("^(a*)*$", "aaaa", "b"),
        ("^(|a)+$", "aa", "b"),
        ("^a{,2}$", "a{,2}", "aa"),
        ("^x{y$", "x{y", "xy"),
        ("^[]a-]+$", "]-a", "b"),
        ("^[a-]$", "-", "b"),
        (r"^[\d_.-]+$", "1_.-", "a"),
        ("^(?i)ab[c-d]$", "ABD", "abe"),
        ("^(?i:a)b$", "Ab", "AB"),
        ("a|b$", "xb", "bx"),
        ("^é.$", "éé", "é"),
    ] {
        assert!(found(pattern, yes), "{pattern} in {yes}");
        assert!(!found(pattern, no), "{pattern} in {no}");
    }
}

#[test]
fn what_is_not_understood_is_an_error() {
    for pattern in [
        "(",
        ")",
        "a)",
        "[",
        "[a",
        "*a",
        "a**",
        "a{1001}",
        "a{3,2}",
        r"\p{L}",
        r"a\",
        "[z-a]",
        "(?=a)",
        "(?<a",
        "[[:none:]]",
        "+",
        "?",
        r"\1",
        r"[\W]",
        "(?i",
        "(?P<n",
    ] {
        assert!(Pattern::new(pattern).is_err(), "{pattern}");
    }
    assert!(Pattern::new(&"(".repeat(200)).is_err());
    assert!(Pattern::new("((a{1000}){1000}){1000}").is_err());
}

#[test]
fn the_time_does_not_explode() {
    assert!(!found("^(a*)*(a*)*(a*)*b$", &"a".repeat(2000)));
}

proptest! {
    #[test]
    fn any_text_is_a_pattern_or_refused(
        pattern in "(\\PC|[\\[\\](){}|*+?.^$\\\\,:0-9a-z-]){0,40}",
        text in "\\PC{0,40}",
    ) {
        if let Ok(pattern) = Pattern::new(&pattern) {
            prop_assert!(pattern.program.len() <= PROGRAM_MAX + 1);
            let _ = pattern.is_found_in(&text);
        }
    }
}
