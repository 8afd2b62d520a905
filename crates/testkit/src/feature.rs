//! What a test needs from the kernel and the machine, tried out for real in a
//! throw-away host.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::cgroup;
use crate::command::Command;
use crate::firewalld;
use crate::host::{Host, enter_private_host, peer_folder, plugins_folder};
use crate::sctp;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Network and mount namespaces can be made: root, or a user namespace.
    /// Every case with a host needs it.
    PrivateHost,
    /// Root of the machine, not of a user namespace.
    RealRoot,
    /// New user namespaces can be made, as an ordinary user's `unshare -Ur`.
    UserNamespaces,
    /// The plugins under test are this project's; for what we do otherwise or
    /// in addition.
    OurPlugins,
    /// Debian's package of upstream's plugins.
    PeerPlugins,
    /// The command `ping`, and IPv4 echo in a namespace.
    Ping,
    /// The command `iperf3`.
    Iperf3,
    /// `strace` may trace and inject errors.
    Strace,
    /// IPv6 is not switched off.
    Ipv6,
    /// nf_tables with NAT, and the command `nft`.
    Nft,
    /// The commands `iptables` and `ip6tables` with NAT and comments.
    Iptables,
    /// The same with `iptables-legacy`, whose rules are not in nf_tables.
    LegacyIptables,
    /// The programs `firewalld` and `dbus-daemon`, and root of the machine for
    /// them; see [`Host::install_firewalld`].
    Firewalld,
    /// `podman`, `runc` and a static `busybox`, and root of the machine who may make
    /// cgroups.
    Podman,
    /// Bridges and veth pairs.
    Bridge,
    /// VLAN filtering on bridges.
    BridgeVlan,
    /// Links of kind dummy.
    Dummy,
    /// Links of kind vlan (802.1q).
    Vlan,
    /// Links of kind ipvlan.
    Ipvlan,
    /// Links of kind macvlan.
    Macvlan,
    /// Links of kind vrf.
    Vrf,
    /// TUN and TAP devices through /dev/net/tun.
    Tun,
    /// Links of kind ifb.
    Ifb,
    /// Associations of SCTP.
    Sctp,
    /// The token bucket filter qdisc, and redirection by u32 and mirred.
    Shaping,
    /// The network card of the machine that `scripts/vm` makes, which is nobody's.
    NetworkCard,
}

use Feature::{
    Bridge, BridgeVlan, Dummy, Firewalld, Ifb, Iperf3, Iptables, Ipv6, Ipvlan, LegacyIptables,
    Macvlan, NetworkCard, Nft, OurPlugins, PeerPlugins, Ping, Podman, PrivateHost, RealRoot, Sctp,
    Shaping, Strace, Tun, UserNamespaces, Vlan, Vrf,
};

impl Feature {
    /// All of them.
    pub const ALL: [Self; 26] = [
        PrivateHost,
        RealRoot,
        UserNamespaces,
        OurPlugins,
        PeerPlugins,
        Ping,
        Iperf3,
        Strace,
        Ipv6,
        Nft,
        Iptables,
        LegacyIptables,
        Firewalld,
        Podman,
        Bridge,
        BridgeVlan,
        Dummy,
        Vlan,
        Ipvlan,
        Macvlan,
        Vrf,
        Tun,
        Ifb,
        Sctp,
        Shaping,
        NetworkCard,
    ];

    /// Its name in lists of skips: lower case, words joined by `-`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PrivateHost => "private-host",
            RealRoot => "real-root",
            UserNamespaces => "user-namespaces",
            OurPlugins => "our-plugins",
            PeerPlugins => "peer-plugins",
            Ping => "ping",
            Iperf3 => "iperf3",
            Strace => "strace",
            Ipv6 => "ipv6",
            Nft => "nft",
            Iptables => "iptables",
            LegacyIptables => "iptables-legacy",
            Firewalld => "firewalld",
            Podman => "podman",
            Bridge => "bridge",
            BridgeVlan => "bridge-vlan",
            Dummy => "dummy",
            Vlan => "vlan",
            Ipvlan => "ipvlan",
            Macvlan => "macvlan",
            Vrf => "vrf",
            Tun => "tun",
            Ifb => "ifb",
            Sctp => "sctp",
            Shaping => "shaping",
            NetworkCard => "network-card",
        }
    }

    /// Whether it is a kind of link or a protocol that kernels built for virtual
    /// machines or development often lack and distributions' kernels have; or what
    /// only the machine of that lane has.
    #[must_use]
    pub fn of_distribution_kernels(self) -> bool {
        matches!(self, BridgeVlan | Dummy | Vlan | Ipvlan | Vrf | Sctp | NetworkCard)
    }

    /// Whether the machine has it. Tried once, then remembered.
    #[must_use]
    pub fn present(self) -> bool {
        static KNOWN: Mutex<BTreeMap<Feature, bool>> = Mutex::new(BTreeMap::new());
        // Held while probing, so that two tests do not probe the same thing.
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(self).or_insert_with(|| self.probe())
    }

    fn probe(self) -> bool {
        match self {
            PrivateHost => in_private_host(|| true),
            RealRoot => is_real_root(),
            UserNamespaces => succeeds(&["unshare -Urnm true"]),
            OurPlugins => are_ours(&plugins_folder()),
            PeerPlugins => peer_folder().join("bridge").is_file(),
            Ipv6 => in_private_host(|| fs::exists("/proc/sys/net/ipv6").unwrap_or(false)),
            Sctp => sctp::is_spoken(),
            NetworkCard => is_in_a_vm() && Path::new("/sys/bus/virtio/drivers/virtio_net").is_dir(),
            Firewalld => is_real_root() && in_private_host(|| firewalld::lay_out().is_ok()),
            Podman => {
                let programs = ["podman --version", "runc --version", "busybox true"];
                is_real_root() && succeeds(&programs) && in_private_host(cgroup::may_be_made)
            }
            Strace => succeeds(&["strace -f -qq -o /dev/null -e trace=getppid true"]),
            other => {
                let commands: Vec<_> =
                    other.commands().iter().map(|words| (*words).to_owned()).collect();
                in_private_host(move || {
                    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
                    succeeds(&commands)
                })
            }
        }
    }

    /// Commands that succeed on a fresh host that has the feature.
    fn commands(self) -> &'static [&'static str] {
        match self {
            Ping => &["ping -n -c 1 -w 5 127.0.0.1"],
            Iperf3 => &["iperf3 --version"],
            Nft => &[
                "nft add table inet probe",
                "nft add chain inet probe post { type nat hook postrouting priority 100 ; }",
                "nft add rule inet probe post masquerade comment \"probe\"",
            ],
            Iptables => &[
                "iptables -w -t nat -A POSTROUTING -m comment --comment probe -j MASQUERADE",
                "ip6tables -w -t nat -A POSTROUTING -m comment --comment probe -j MASQUERADE",
            ],
            LegacyIptables => &[
                "iptables-legacy -w -t nat -A POSTROUTING -m comment --comment probe -j MASQUERADE",
                "ip6tables-legacy -w -t nat -A POSTROUTING -m comment --comment probe -j MASQUERADE",
            ],
            Bridge => &[
                "ip link add probe0 type bridge",
                "ip link add probe1 type veth peer name probe2",
                "ip link set probe1 master probe0",
            ],
            BridgeVlan => &["ip link add probe0 type bridge vlan_filtering 1"],
            Dummy => &["ip link add probe0 type dummy"],
            Vlan => &[
                "ip link add probe0 type veth peer name probe1",
                "ip link add link probe0 name probe2 type vlan id 5",
            ],
            Ipvlan => &[
                "ip link add probe0 type veth peer name probe1",
                "ip link add link probe0 name probe2 type ipvlan mode l2",
            ],
            Macvlan => &[
                "ip link add probe0 type veth peer name probe1",
                "ip link add link probe0 name probe2 type macvlan mode bridge",
            ],
            Vrf => &["ip link add probe0 type vrf table 10"],
            Tun => &["ip tuntap add dev probe0 mode tap"],
            Ifb => &["ip link add probe0 type ifb"],
            Shaping => &[
                "ip link add probe0 type veth peer name probe1",
                "tc qdisc add dev probe0 root tbf rate 1mbit burst 10kb latency 50ms",
                "tc qdisc add dev probe0 ingress",
                "tc filter add dev probe0 parent ffff: protocol all u32 match u32 0 0 \
                 action mirred egress redirect dev probe1",
            ],
            PrivateHost | RealRoot | UserNamespaces | OurPlugins | PeerPlugins | Firewalld
            | Podman | Strace | Ipv6 | Sctp | NetworkCard => &[],
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer of `work` in a fresh private host; `false` where there can be
/// none.
fn in_private_host(work: impl FnOnce() -> bool + Send + 'static) -> bool {
    let worker = thread::spawn(move || enter_private_host().is_ok() && work());
    worker.join().unwrap_or(false)
}

/// Whether all commands succeed in the calling thread's namespaces.
fn succeeds(commands: &[&str]) -> bool {
    commands.iter().all(|words| {
        Command::new(*words, "probe", None).try_run().is_ok_and(|output| output.success())
    })
}

/// Root, with every user ID there is: a user namespace maps only some.
fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<_> = map.split_whitespace().collect();
    nix::unistd::geteuid().is_root() && words == ["0", "0", "4294967295"]
}

/// In the machine of `scripts/vm`, where no card is anybody's way out.
#[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
fn is_in_a_vm() -> bool {
    std::env::var_os("OXCNI_IN_VM").is_some()
}

/// The about text of a plugin, on stderr, says whose it is.
fn are_ours(folder: &Path) -> bool {
    let program = folder.join("loopback").display().to_string();
    let mut command = Command::new(&[program.as_str()], "probe", None);
    // Without CNI_COMMAND, whatever runs the tests.
    command.env = Some(BTreeMap::new());
    command.try_run().is_ok_and(|output| output.stderr.contains("plugin oxcni "))
}

impl Host {
    /// Whether the plugins under test are this project's.
    #[must_use]
    pub fn has_our_plugins(&self) -> bool {
        OurPlugins.present()
    }
}
