use linux::Socket;
use linux::link::{self, IfbSpec, Link};
use linux::tc::{self, Classifier, Fill, Filter, Hook, Redirect, Tbf};

use crate::host::{in_new_namespace, tool, veth_pair};

fn ifb(socket: &Socket) -> Link {
    let spec = IfbSpec { name: "ifb9", up: true, ..IfbSpec::default() };
    spec.create(socket).unwrap()
}

fn filters(socket: &Socket, link: u32) -> Vec<Filter> {
    let qdisc = tc::get(socket, link, Hook::Ingress).unwrap();
    qdisc.map(|qdisc| qdisc.filters(socket).unwrap()).unwrap_or_default()
}

#[test]
fn a_token_bucket_is_as_tc_shows_it() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        assert_eq!(tc::get(socket, link.index, Hook::Root).unwrap(), None);
        let tbf = Tbf { rate: 1_000_000, fill: Fill::Ticks(3_125_000), limit: 225_000 };
        socket.request(tbf.add_message(link.index)).unwrap();
        assert_eq!(
            tool("tc qdisc show dev near").trim(),
            "qdisc tbf 1: root refcnt 3 rate 8Mbit burst 200000b lat 25ms"
        );
        assert!(socket.request(tbf.add_message(link.index)).unwrap_err().is_exists());
        let found = tc::get(socket, link.index, Hook::Root).unwrap().unwrap();
        assert_eq!((found.handle, found.kind.as_str(), found.tbf), (0x1_0000, "tbf", Some(tbf)));
        assert!(tc::list(socket).unwrap().contains(&found));

        // Not another kind's.
        tc::delete(socket, link.index, Hook::Root, "htb").unwrap();
        assert!(tc::get(socket, link.index, Hook::Root).unwrap().is_some());
        for _ in 0..2 {
            tc::delete(socket, link.index, Hook::Root, "tbf").unwrap();
            assert_eq!(tc::get(socket, link.index, Hook::Root).unwrap(), None);
        }
        link::delete(socket, link.index).unwrap();
        tc::delete(socket, link.index, Hook::Root, "tbf").unwrap();
        assert!(tc::get(socket, link.index, Hook::Root).unwrap_err().is_not_found());
    });
}

#[test]
fn buckets_of_any_size_are_kept() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        for (rate, fill, limit) in [
            // 4.3 s, the longest bucket that fits 32 bits of nanoseconds, and more.
            (125_000, Fill::Ticks(67_108_863), 1_000_000),
            (125_000, Fill::Ticks(u32::MAX), u32::MAX),
            (125_000, Fill::Bytes(268_435_455), u32::MAX),
            (1, Fill::Bytes(1_000_000), u32::MAX),
            (u64::from(u32::MAX) + 1, Fill::Ticks(1_000_000), u32::MAX),
            (125_000_000_000, Fill::Bytes(u32::MAX - 1), u32::MAX),
        ] {
            let tbf = Tbf { rate, fill, limit };
            socket.request(tbf.add_message(link.index)).unwrap();
            let found = tc::get(socket, link.index, Hook::Root).unwrap().unwrap().tbf.unwrap();
            assert!(tbf.is_shown_as(&found), "{tbf:?}: {found:?}");
            assert!(!tbf.is_shown_as(&Tbf { fill: Fill::Ticks(1 << 25), ..found }), "{tbf:?}");
            tc::delete(socket, link.index, Hook::Root, "tbf").unwrap();
        }
    });
}

#[test]
fn what_comes_in_is_redirected() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        let to = ifb(socket).index;
        assert_eq!(filters(socket, link.index), []);
        socket.request(tc::add_ingress_message(link.index)).unwrap();
        assert!(socket.request(tc::add_ingress_message(link.index)).unwrap_err().is_exists());
        let redirect = Redirect { link: link.index, clsact: false, to };
        socket.request(redirect.add_message(Classifier::U32)).unwrap();
        let shown = tool("tc filter show dev near parent ffff:");
        let words: Vec<_> = shown.split_whitespace().collect();
        assert!(
            words.join(" ").contains(
                "key ht 800 bkt 0 *flowid 1:1 not_in_hw match 00000000/00000000 at 0 \
             action order 1: mirred (Egress Redirect to device ifb9) stolen index 1 ref 1 bind 1"
            ),
            "{shown}"
        );
        assert!(!shown.contains("order 2:"), "{shown}");

        let found = filters(socket, link.index);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].link, found[0].priority), (link.index, 1));
        assert_eq!((found[0].kind.as_str(), found[0].redirects_to), ("u32", Some(to)));
        for _ in 0..2 {
            found[0].delete(socket).unwrap();
            assert_eq!(filters(socket, link.index), []);
        }
        for _ in 0..2 {
            tc::delete(socket, link.index, Hook::Ingress, "ingress").unwrap();
            assert_eq!(tc::get(socket, link.index, Hook::Ingress).unwrap(), None);
        }
    });
}

#[test]
fn a_redirect_stands_beside_the_filters_of_others() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        let to = ifb(socket).index;
        tool("tc qdisc add dev near clsact");
        tool(
            "tc filter add dev near egress protocol all prio 1 u32 match u32 0 0 action mirred egress mirror dev far",
        );
        tool(
            "tc filter add dev near ingress protocol ip prio 7 u32 match u32 0 0 action mirred egress mirror dev far",
        );
        // Deletes no other kind's.
        tc::delete(socket, link.index, Hook::Ingress, "ingress").unwrap();
        let qdisc = tc::get(socket, link.index, Hook::Ingress).unwrap().unwrap();
        assert_eq!(qdisc.kind, "clsact");
        let redirect = Redirect { link: link.index, clsact: true, to };
        socket.request(redirect.add_message(Classifier::U32)).unwrap();
        // u32 shows its filters for what leaves here as well, and so does tc.
        let ours = |list: Vec<Filter>| {
            let sent: Vec<_> = list.into_iter().filter(|one| one.redirects_to.is_some()).collect();
            sent
        };
        let found = ours(filters(socket, link.index));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].priority, found[0].redirects_to), (1, Some(to)));
        found[0].delete(socket).unwrap();
        assert_eq!(ours(filters(socket, link.index)), []);
        let shown =
            tool("tc filter show dev near egress") + &tool("tc filter show dev near ingress");
        assert!(shown.contains("pref 1") && shown.contains("pref 7"), "{shown}");
    });
}

#[test]
fn part_of_what_comes_in_is_not_everything() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        ifb(socket);
        tool("tc qdisc add dev near ingress");
        for filter in [
            "protocol all prio 1 u32 match u32 0 0xff at 0 action mirred egress redirect dev ifb9",
            "protocol ip prio 2 u32 match u32 0 0 action mirred egress redirect dev ifb9",
            "protocol all prio 3 u32 match u32 0 0 action mirred egress mirror dev ifb9",
        ] {
            tool(&format!("tc filter add dev near parent ffff: {filter}"));
        }
        let found = filters(socket, link.index);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|filter| filter.redirects_to.is_none()), "{found:?}");
    });
}

#[test]
fn matchall_redirects_as_well_where_the_kernel_has_it() {
    in_new_namespace(|socket| {
        let (link, _) = veth_pair(socket, "near", "far");
        let to = ifb(socket).index;
        socket.request(tc::add_ingress_message(link.index)).unwrap();
        let redirect = Redirect { link: link.index, clsact: false, to };
        match socket.request(redirect.add_message(Classifier::Matchall)) {
            Err(error) => assert!(error.is_not_found(), "{error}"),
            Ok(()) => {
                let found = filters(socket, link.index);
                assert_eq!(found.len(), 1, "{found:?}");
                assert_eq!(found[0].redirects_to, Some(to));
                found[0].delete(socket).unwrap();
                assert_eq!(filters(socket, link.index), []);
            }
        }
    });
}

#[test]
fn kinds_are_known_or_not_and_nothing_is_left_of_asking() {
    in_new_namespace(|socket| {
        let before = tool("tc qdisc show") + &tool("ip link show");
        assert!(tc::knows(socket, "tbf").unwrap());
        assert!(!tc::knows(socket, "nothing").unwrap());
        assert!(link::knows(socket, "ifb").unwrap());
        assert!(!link::knows(socket, "nothing").unwrap());
        assert_eq!(tool("tc qdisc show") + &tool("ip link show"), before);
    });
}
