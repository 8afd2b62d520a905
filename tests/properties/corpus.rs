//! Ways to use the plugins, one a line. A new plugin is added here.

use serde_json::{Value, json};
use testkit::Feature::{
    self, Bridge, BridgeVlan, Dummy, Ifb, Iptables, Ipv6, Ipvlan, Macvlan, Nft, Shaping, Tun, Vlan,
    Vrf,
};
use testkit::{Container, Host, Netns as _};

use crate::conf::{fixed, leased, with};

/// A way to use a plugin.
#[derive(Clone)]
pub(super) struct Sample {
    /// What is special about it.
    pub(super) name: &'static str,
    /// The plugin.
    pub(super) plugin: &'static str,
    /// Its configuration, without version, network and type.
    pub(super) keys: Value,
    /// What the kernel must have for it.
    pub(super) needs: Vec<Feature>,
    /// The plugin before it in the chain, with its keys.
    pub(super) behind: Option<(&'static str, Value)>,
    /// Makes what it stands on.
    pub(super) prepare: fn(&Host),
    /// What each container has seen before.
    pub(super) inside: fn(&Container),
    /// What it makes in the container cannot be told apart from outside, so GC
    /// leaves it to the end of the namespace.
    pub(super) lives_in_the_namespace: bool,
    /// What upstream's program has to do with attachments of ours, and ours with its;
    /// `None` where it has no such plugin, or none of these keys.
    pub(super) upstream: Option<Upstream>,
    /// Properties that upstream's plugin does not have here; all of them when
    /// there is an empty name.
    not_upstream: &'static [&'static str],
    /// The one property that has a meaning here.
    only: Option<&'static str>,
    /// Properties that have no meaning here.
    without: &'static [&'static str],
}

/// Of Debian's package of upstream's plugins.
#[derive(Clone, Copy, Default)]
pub(super) struct Upstream {
    /// Its CHECK finds fault with what it made itself.
    pub(super) is_never_content: bool,
    /// Words of what its DEL leaves on the host of an attachment of ours, as of its own.
    pub(super) leaves: &'static [&'static str],
    /// The container is other than it was, after ADD or DEL by it.
    pub(super) spoils_the_container: bool,
}

/// Properties that take many ADDs: not for samples whose steps are those of
/// another sample, or which wait for answers.
pub(super) const EACH_STEP: &[&str] = &[
    "a_failure_at_any_step_leaves_the_host_as_it_was",
    "a_kill_at_any_step_is_cleaned_up_by_del",
    "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
    "a_kill_at_any_step_is_cleaned_up_by_gc",
];

pub(super) fn samples() -> Vec<Sample> {
    let dual = || leased(&["10.1.0.0/24", "2001:db8:1::/64"]);
    let one_range = || json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]});
    let network = || leased(&["10.1.0.0/24"]);
    vec![
        // Upstream's CHECK asks the IPAM plugin that there is not.
        sample("bridge", "layer_2", json!({}), &[Bridge])
            .not_upstream(&["check_passes_at_every_version"]),
        sample(
            "bridge",
            "gateway",
            json!({"isDefaultGateway": true, "ipam": one_range()}),
            &[Bridge],
        )
        .upgraded()
        .without(EACH_STEP),
        sample(
            "bridge",
            "masquerading_by_iptables",
            json!({"isGateway": true, "ipMasq": true, "ipMasqBackend": "iptables",
                "ipam": network()}),
            &[Bridge, Iptables],
        )
        .upgraded()
        .upgraded_only(),
        // With a default route of IPAM's as well, upstream's ADD fails.
        sample(
            "bridge",
            "dual_stack",
            json!({"isDefaultGateway": true, "ipam": dual()}),
            &[Bridge, Ipv6],
        )
        .ours_only(),
        sample("bridge", "every_key", every_key(), &[Bridge, Ipv6]).ours_only(),
        sample(
            "bridge",
            "force_address",
            json!({"isGateway": true, "forceAddress": true, "ipam": network()}),
            &[Bridge],
        )
        .prepare(|host| {
            host.exec("ip link add cni0 address 02:00:00:00:00:01 type bridge");
            host.exec("ip link set cni0 up");
            host.exec("ip address add 10.9.0.1/24 dev cni0");
        }),
        // Newer than Debian's package of upstream's.
        sample(
            "bridge",
            "duplicates_are_looked_for",
            json!({"isGateway": true, "enabledad": true, "ipam": dual()}),
            &[Bridge, Ipv6],
        )
        .ours_only()
        .without(EACH_STEP),
        sample("bridge", "link_down", json!({"disableContainerInterface": true}), &[Bridge])
            .ours_only()
            .without(EACH_STEP),
        // Upstream makes VLANs in another order, and its newer keys are newer
        // than Debian's package.
        sample(
            "bridge",
            "vlan_gateway",
            json!({"isGateway": true, "vlan": 100, "ipam": network()}),
            &[Bridge, BridgeVlan],
        )
        .ours_only(),
        sample(
            "bridge",
            "vlan_trunk",
            json!({"vlan": 100, "vlanTrunk": [{"id": 7},
            {"minID": 90, "maxID": 110}]}),
            &[Bridge, BridgeVlan],
        )
        .ours_only(),
        sample("host-device", "layer_2", json!({"device": "ens5"}), &[])
            .prepare(one_device)
            .ours_only()
            .without(ONE_DEVICE),
        sample("host-device", "dual_stack", json!({"device": "ens5", "ipam": dual()}), &[Ipv6])
            // The alias it gave the device, and our record, for GC.
            .upgraded_but(Upstream {
                leaves: &["\"ifname\":\"ens5\"", "/oxcni/host-device/"],
                ..Upstream::default()
            })
            .prepare(one_device)
            .ours_only()
            .without(ONE_DEVICE),
        sample("dummy", "dual_stack", json!({"ipam": dual()}), &[Dummy, Ipv6])
            .lives_in_the_namespace()
            .ours_only(),
        // Upstream leaves the addresses of a failed ADD and asks for a default
        // route even to release them.
        sample(
            "ipvlan",
            "dual_stack",
            json!({"master": "uplink", "ipam": dual()}),
            &[Ipvlan, Ipv6],
        )
        .upgraded()
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only(),
        sample(
            "ipvlan",
            "host_shim",
            json!({"master": "uplink", "mode": "l3", "hostShim": true, "ipam": dual()}),
            &[Ipvlan, Ipv6],
        )
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only()
        .without(KILLED_AND_TWO),
        sample("loopback", "alone", json!({}), &[]).upgraded().lives_in_the_namespace(),
        sample("loopback", "behind_bridge", json!({}), &[Bridge])
            .upgraded()
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .lives_in_the_namespace(),
        // Debian's package has none.
        sample("tap", "layer_2", json!({}), &[Tun]).lives_in_the_namespace().ours_only(),
        sample(
            "tap",
            "dual_stack",
            json!({"mtu": 1400, "multiQueue": true, "ipam": dual()}),
            &[Tun, Ipv6],
        )
        .lives_in_the_namespace()
        .ours_only(),
        sample("macvlan", "layer_2", json!({"master": "uplink"}), &[Macvlan])
            .prepare(uplink)
            .lives_in_the_namespace()
            .without(OUT_OF_REACH_AND_EACH_STEP),
        // Debian's package of upstream's does not hear of duplicates.
        sample(
            "macvlan",
            "dual_stack",
            json!({"master": "uplink", "mtu": 1400, "ipam": dual()}),
            &[Macvlan, Ipv6],
        )
        .upgraded()
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only()
        .without(OUT_OF_REACH),
        sample(
            "macvlan",
            "passthru",
            json!({"master": "uplink", "mode": "passthru", "mac": "02:00:00:00:00:0a",
                "ipam": network()}),
            &[Macvlan],
        )
        .upgraded()
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only()
        .without(OUT_OF_REACH_AND_ALONE),
        // The metrics of its routes are made from the containers' names, and who
        // gets which address is chance.
        sample(
            "macvlan",
            "host_shim",
            json!({"master": "uplink", "hostShim": true, "ipam": dual()}),
            &[Macvlan, Ipv6],
        )
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only()
        .without(&["two_at_once_equal_two_in_turn", "del_without_netns_cleans_up"]),
        sample("ptp", "alone", json!({"ipam": network()}), &[Bridge])
            .upgraded()
            .prepare(without_link_local)
            .without(EACH_STEP),
        sample("ptp", "dual_stack", json!({"mtu": 1400, "ipam": dual()}), &[Bridge, Ipv6])
            .upgraded()
            .prepare(without_link_local)
            .ours_only(),
        sample(
            "ptp",
            "masquerading_by_iptables",
            json!({"ipMasq": true, "ipMasqBackend": "iptables", "ipam": network()}),
            &[Bridge, Iptables],
        )
        .upgraded()
        .prepare(without_link_local)
        .upgraded_only(),
        // Its shared chains come with the first attachment, and stay after one that
        // failed; and who gets which address is chance.
        sample("ptp", "masquerading", json!({"ipMasq": true, "ipam": dual()}), &[Bridge, Nft])
            .prepare(without_link_local)
            .ours_only()
            .without(&[
                "a_failure_at_any_step_leaves_the_host_as_it_was",
                "two_at_once_equal_two_in_turn",
            ]),
        // Debian's package has none.
        sample("flannel", "dual_stack", json!({}), &[Bridge, Ipv6])
            .prepare(|host| host.write("/run/flannel/subnet.env", FLANNEL_LEASE))
            .ours_only(),
        sample(
            "firewall",
            "nftables",
            json!({"backend": "nftables", "ingressPolicy": "isolated",
                "denyCIDRs": ["169.254.0.0/16"]}),
            &[Bridge, Nft],
        )
        .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}))
        .ours_only()
        .without(ONE_ADDRESS),
        sample(
            "firewall",
            "iptables",
            json!({"backend": "iptables", "ingressPolicy": "same-bridge"}),
            &[Bridge, Iptables],
        )
        .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}))
        .ours_only()
        .without(ONE_PORT_IN_SHARED_CHAINS),
        sample("firewall", "open_by_iptables", json!({"backend": "iptables"}), &[Bridge, Iptables])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}))
            .upgraded_but(Upstream {
                leaves: &["10.1.0.2", "2001:db8:1::2"],
                ..Upstream::default()
            })
            .upgraded_only(),
        // Upstream leaves qdiscs to the end of the pair.
        sample("bandwidth", "at_the_host_end", rates(), &[Bridge, Shaping, Ifb])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .ours_only(),
        // Upstream knows no default burst.
        sample(
            "bandwidth",
            "with_bursts",
            with(&rates(), json!({"egressBurst": 1_600_000})),
            &[Bridge, Shaping, Ifb],
        )
        .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
        .upgraded()
        .upgraded_only(),
        sample("bandwidth", "in_the_container", rates(), &[Tun, Shaping, Ifb])
            .behind("tap", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .lives_in_the_namespace()
            .ours_only()
            .without(OUT_OF_REACH),
        sample("portmap", "nftables", ports("nftables"), &[Bridge, Nft])
            .behind("bridge", json!({"isGateway": true, "ipam": fixed(&["10.1.0.2/24"])}))
            .prepare(the_loopback_is_guarded)
            .ours_only()
            .without(ONE_PORT),
        // Its shared chains come with the first attachment, and stay.
        sample("portmap", "iptables", ports("iptables"), &[Bridge, Iptables])
            // It looks for chains of both families, and makes an empty table for that.
            .upgraded_but(Upstream {
                is_never_content: true,
                leaves: &["ip6tables: ", "nft: table ip6 nat", "nft: }"],
                ..Upstream::default()
            })
            .behind("bridge", json!({"isGateway": true, "ipam": fixed(&["10.1.0.2/24"])}))
            .prepare(loopback_may_leave)
            .ours_only()
            .without(ONE_PORT_IN_SHARED_CHAINS),
        sample(
            "static",
            "two_addresses",
            json!({"ipam": fixed(&["10.1.0.2/24", "10.2.0.2/24"])}),
            &[],
        ),
        // Versions before 0.3.0 have no more.
        sample(
            "static",
            "one_of_each_family",
            json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}),
            &[],
        )
        .upgraded()
        .upgraded_only(),
        // The files tell which namespaces they are of.
        sample("sbr", "dual_stack", json!({}), &[Bridge, Ipv6])
            // It does not bring the main table back, and leaves our record to GC.
            .upgraded_but(Upstream {
                spoils_the_container: true,
                leaves: &["/oxcni/sbr/"],
                ..Upstream::default()
            })
            .behind("bridge", json!({"ipam": two_ways()}))
            .prepare(|host| drop(host.exec("mkdir -p -m 700 /run/cni/oxcni/sbr")))
            .ours_only()
            .without(&["two_at_once_equal_two_in_turn"]),
        sample("sbr", "source_hints", json!({"addSourceHints": true}), &[Bridge, Ipv6])
            .behind("bridge", json!({"ipam": two_ways()}))
            .prepare(|host| drop(host.exec("mkdir -p -m 700 /run/cni/oxcni/sbr")))
            .ours_only()
            .without(EACH_STEP_AND_TWO),
        sample("sbr", "given_table", json!({"table": 77}), &[Bridge])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .prepare(|host| drop(host.exec("mkdir -p -m 700 /run/cni/oxcni/sbr")))
            .ours_only()
            .without(EACH_STEP_AND_TWO),
        sample("tuning", "every_key", tuned(), &[Bridge])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .prepare(|host| drop(host.exec("mkdir -p -m 700 /run/cni/tuning")))
            .ours_only()
            .without(&["two_at_once_equal_two_in_turn"]),
        // Debian's package knows no txQLen, no IFNAME, and restores no sysctls.
        sample("tuning", "of_the_link", tuned_link(), &[Bridge])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .prepare(|host| drop(host.exec("mkdir -p -m 700 /run/cni/tuning")))
            .upgraded()
            .upgraded_only(),
        sample("host-local", "two_ranges", json!({"ipam": dual()}), &[]).upgraded(),
        sample(
            "vlan",
            "dual_stack",
            json!({"master": "uplink", "vlanId": 5, "ipam": dual()}),
            &[Vlan, Ipv6],
        )
        .upgraded()
        .prepare(uplink)
        .lives_in_the_namespace()
        .ours_only()
        .without(ONE_CONTAINER),
        // Upstream loses routes and IPv6 addresses.
        sample("vrf", "one_address", json!({"vrfname": "blue"}), &[Bridge, Vrf])
            .behind("bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
            .inside(had_a_vrf)
            .upgraded()
            .upgraded_only(),
        sample("vrf", "dual_stack", json!({"vrfname": "blue"}), &[Bridge, Vrf, Ipv6])
            .behind(
                "bridge",
                json!({"isDefaultGateway": true,
                    "ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}),
            )
            .inside(had_a_vrf)
            .lives_in_the_namespace()
            .ours_only(),
    ]
}

const FLANNEL_LEASE: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
    FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:17::1/64\n\
    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn rates() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 1_600_000, "egressRate": 1_600_000})
}

fn two_ways() -> Value {
    json!({"type": "static", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}],
        "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}]})
}

fn tuned_link() -> Value {
    json!({"mac": "02:00:00:00:00:0a", "mtu": 1400, "promisc": true, "allmulti": true})
}

fn tuned() -> Value {
    with(
        &tuned_link(),
        json!({"txQLen": 77, "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "1",
            "net.ipv4.ip_local_reserved_ports": "8080"}}),
    )
}

fn ports(backend: &str) -> Value {
    json!({"backend": backend, "runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
    ]}})
}

/// An address is that of the container which got it last.
const ONE_ADDRESS: &[&str] = ONE_PORT;

/// A port has one owner.
const ONE_PORT: &[&str] =
    &["two_at_once_equal_two_in_turn", "gc_removes_what_is_not_valid_and_no_more"];

/// The link is beyond reach in its namespace, and keeps its parent promiscuous.
const OUT_OF_REACH: &[&str] = &["del_without_netns_cleans_up"];
const OUT_OF_REACH_AND_EACH_STEP: &[&str] = &[
    "del_without_netns_cleans_up",
    "a_failure_at_any_step_leaves_the_host_as_it_was",
    "a_kill_at_any_step_is_cleaned_up_by_del",
    "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
    "a_kill_at_any_step_is_cleaned_up_by_gc",
];
const OUT_OF_REACH_AND_ALONE: &[&str] = &[
    "del_without_netns_cleans_up",
    "two_at_once_equal_two_in_turn",
    "gc_removes_what_is_not_valid_and_no_more",
];

/// The parent, or its VLAN, can be in one container only.
const ONE_CONTAINER: &[&str] =
    &["two_at_once_equal_two_in_turn", "gc_removes_what_is_not_valid_and_no_more"];

/// [`EACH_STEP`], and two at once differ by chance.
const EACH_STEP_AND_TWO: &[&str] = &[
    "a_failure_at_any_step_leaves_the_host_as_it_was",
    "a_kill_at_any_step_is_cleaned_up_by_del",
    "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
    "a_kill_at_any_step_is_cleaned_up_by_gc",
    "two_at_once_equal_two_in_turn",
];

/// Kills at each step are those of macvlan's shim, where no virtual machine is needed;
/// and two at once differ by chance.
const KILLED_AND_TWO: &[&str] = &[
    "a_kill_at_any_step_is_cleaned_up_by_del",
    "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
    "a_kill_at_any_step_is_cleaned_up_by_gc",
    "two_at_once_equal_two_in_turn",
];

/// A pair's host end gets its link-local address some time after ADD; here,
/// never.
fn without_link_local(host: &Host) {
    if host.sysctl("net/ipv6/conf/default/addr_gen_mode").is_some() {
        host.set_sysctl("net/ipv6/conf/default/addr_gen_mode", "1");
    }
}

/// A link for others to stand on, with carrier and the host's addresses in the
/// networks of [`leased`].
fn uplink(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    host.exec(
        "ip link add uplink address 02:00:00:00:00:05 type veth \
         peer name wire address 02:00:00:00:00:06",
    );
    host.exec("ip address add 10.1.0.254/24 dev uplink");
    host.exec("ip address add 2001:db8:1::fe/64 dev uplink");
    for link in ["wire", "uplink"] {
        host.exec(format!("ip link set {link} up"));
    }
    for link in ["wire", "uplink"] {
        host.wait_until("both ends have their link-local addresses", || {
            !host.exec(format!("ip -6 address show dev {link} scope link")).is_empty()
        });
    }
}

/// With its first VRF a namespace gets rules that the kernel never removes.
fn had_a_vrf(container: &Container) {
    container.exec("ip link add first type vrf table 9");
    container.exec("ip link del first");
}

/// Of a port with one owner in chains that come with the first attachment, and stay
/// after one that failed.
const ONE_PORT_IN_SHARED_CHAINS: &[&str] = &[ONE_PORT[0], ONE_PORT[1], EACH_STEP[0]];

/// A mapping at 127.0.0.1 wants it on the container's link, and leaves it so.
fn loopback_may_leave(host: &Host) {
    host.set_sysctl("net/ipv4/conf/all/route_localnet", "1");
}

/// What the first attachment leaves of the table.
fn the_loopback_is_guarded(host: &Host) {
    loopback_may_leave(host);
    host.exec("nft add table ip cni_hostport { comment \"CNI portmap plugin\" ; }");
    let guard = "ip cni_hostport guard_loopback";
    host.exec(format!("nft add chain {guard} {{ type filter hook prerouting priority raw ; }}"));
    // It may be called again.
    host.exec(format!("nft flush chain {guard}"));
    for address in ["daddr", "saddr"] {
        host.exec(format!("nft add rule {guard} iifname != lo ip {address} 127.0.0.0/8 drop"));
    }
}

/// There is one device, and a virtual one ends with its namespace.
const ONE_DEVICE: &[&str] = &[
    "two_at_once_equal_two_in_turn",
    "gc_removes_what_is_not_valid_and_no_more",
    "del_of_a_lost_namespace_cleans_up",
    "it_comes_back_after_its_namespace_was_lost",
    "del_of_a_stale_file_cleans_up",
    "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
];

/// A device that can be lent, with carrier. Without IPv6 on the host: the kernel
/// adds its addresses and routes some time after the device came back.
fn one_device(host: &Host) {
    if host.sysctl("net/ipv6/conf/default/disable_ipv6").is_some() {
        host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    }
    // Fixed addresses: a property may compare several hosts.
    let ends = "ens5 address 02:00:00:00:00:05 type veth peer name wire5 address 02:00:00:00:00:06";
    host.exec(format!("ip link add {ends}"));
    host.exec("ip link set wire5 up");
    host.exec("ip link set ens5 up");
}

fn sample(plugin: &'static str, name: &'static str, keys: Value, needs: &[Feature]) -> Sample {
    Sample {
        name,
        plugin,
        keys,
        needs: needs.to_vec(),
        behind: None,
        prepare: |_| {},
        inside: |_| {},
        lives_in_the_namespace: false,
        upstream: None,
        only: None,
        not_upstream: &[],
        without: &[],
    }
}

impl Sample {
    fn ours_only(self) -> Sample {
        Sample { not_upstream: &[""], ..self }
    }

    fn not_upstream(self, not_upstream: &'static [&'static str]) -> Sample {
        Sample { not_upstream, ..self }
    }

    /// Is also upstream's: containers may be upgraded and rolled back.
    fn upgraded(self) -> Sample {
        Sample { upstream: Some(Upstream::default()), ..self }
    }

    fn upgraded_but(self, upstream: Upstream) -> Sample {
        Sample { upstream: Some(upstream), ..self }
    }

    /// All else is shown with another sample.
    fn upgraded_only(self) -> Sample {
        Sample { only: Some(super::UPGRADED), ..self }
    }

    fn prepare(self, prepare: fn(&Host)) -> Sample {
        Sample { prepare, ..self }
    }

    fn inside(self, inside: fn(&Container)) -> Sample {
        Sample { inside, ..self }
    }

    fn without(self, without: &'static [&'static str]) -> Sample {
        Sample { without, ..self }
    }

    fn behind(self, plugin: &'static str, keys: Value) -> Sample {
        Sample { behind: Some((plugin, keys)), ..self }
    }

    fn lives_in_the_namespace(self) -> Sample {
        Sample { lives_in_the_namespace: true, ..self }
    }

    /// Whether it needs what development kernels often lack.
    pub(super) fn needs_a_vm(&self) -> bool {
        let rare = [BridgeVlan, Feature::Dummy, Feature::Ipvlan, Feature::Vlan, Vrf];
        self.needs.iter().any(|feature| rare.contains(feature))
    }

    /// Whether it filters packets or shapes them.
    pub(super) fn has_rules(&self) -> bool {
        let rules = [Nft, Iptables, Feature::Firewalld, Shaping];
        self.needs.iter().any(|feature| rules.contains(feature))
    }

    /// Whether the property has a meaning for it.
    pub(super) fn has(&self, property: &str) -> bool {
        match property {
            super::UPGRADED => self.upstream.is_some(),
            other => self.only.is_none_or(|only| only == other) && !self.without.contains(&other),
        }
    }

    /// Whether the property does not hold for upstream's plugin.
    pub(super) fn is_ours_only(&self, property: &str) -> bool {
        self.not_upstream.iter().any(|name| name.is_empty() || *name == property)
    }
}

fn every_key() -> Value {
    let ipam = json!({"type": "static",
        "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.254"},
            {"address": "2001:db8:1::2/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "mtu": 1300, "priority": 9},
            {"dst": "2001:db8:8::/48", "table": 77}],
        "dns": {"nameservers": ["10.1.0.254"], "search": ["example.com"]}});
    json!({"bridge": "br7", "isGateway": true, "mtu": 1400, "hairpinMode": true,
        "portIsolation": true, "args": {"cni": {"mac": "02:00:00:00:00:0a"}}, "ipam": ipam})
}
