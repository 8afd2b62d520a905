//! Names and rules of the table, which all attachments share.

use attach::chained;
use linux::nft::{
    AddrType, COMMENT_MAX, Chain, ChainType, Data, Element, Family as NftFamily, Field, Hook,
    MarkChange, Op, Operand, Protocol, Rule, Set, Socket, Statement, Table, Transaction, Type,
    Value,
};
use linux::{Family, IpNetwork, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conf::{HostPort, Mapping};
use crate::place::Place;

/// Where destinations are rewritten: just behind `dstnat` (-100), where
/// kube-proxy and iptables do, so that a service's own address or node port is
/// never taken over (CVE-2019-9946). Of several chains that could rewrite a
/// destination the first one that does so decides.
const BEHIND_DSTNAT: i32 = -90;

/// Where sources are rewritten: before `srcnat` (100), because the rule of the
/// iptables backend there takes every packet with the same mark.
const BEFORE_SRCNAT: i32 = 90;

/// `raw`: before connections are tracked, so that what arrives still has the
/// addresses it came with.
const RAW: i32 = -300;

/// What programs of the host use to reach themselves (RFC 1122, 3.2.1.3).
pub(super) const LOOPBACK: &str = "127.0.0.0/8";

/// Upstream's chains with rules of attachments.
pub(super) const UPSTREAM_CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

/// Upstream's other chains.
const UPSTREAM_SHARED_CHAINS: [&str; 3] = ["hostports_all", "prerouting", "output"];

/// The table of one address family.
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) table: Table,
    /// Protocol and port: address and port.
    pub(super) any_address: Set,
    /// Address, protocol and port of the host: address and port.
    pub(super) one_address: Set,
    /// Protocol and port of all there are in `one_address`.
    pub(super) one_address_ports: Set,
    /// Mappings of a container that another attachment of it has, each with where it
    /// would lead: there only while there are any.
    pub(super) waiting: Set,
    /// Addresses that mappings lead to, with the number of these mappings and
    /// the container's namespace.
    pub(super) containers: Set,
    /// Source and destination: the container's address twice, and 127.0.0.1
    /// and the container's.
    pub(super) masquerade: Set,
    /// Addresses that nothing is to reach under its own address.
    pub(super) masquerade_all: Set,
    pub(super) conditional: Chain,
    pub(super) neighbours: Chain,
    prerouting: Chain,
    output: Chain,
    mapped: Chain,
    targets: Chain,
    sources: Chain,
    pub(super) guard: Chain,
}

impl Layout {
    pub(super) fn new(family: Family) -> Layout {
        let (table, address) = match family {
            Family::V4 => (Table::ip("cni_hostport"), Type::Ipv4Addr),
            Family::V6 => (Table::ip6("cni_hostport"), Type::Ipv6Addr),
        };
        let table = table.comment("CNI portmap plugin");
        let (protocol, port) = (Type::InetProto, Type::InetService);
        let nat = |name, hook, priority| Chain::base(&table, name, ChainType::Nat, hook, priority);
        Layout {
            family,
            any_address: Set::map(&table, "any_address", [protocol, port], [address, port]),
            one_address: Set::map(
                &table,
                "one_address",
                [address, protocol, port],
                [address, port],
            ),
            one_address_ports: Set::new(&table, "one_address_ports", [protocol, port]),
            waiting: Set::new(&table, "waiting", [address, protocol, port, address, port]),
            containers: Set::new(&table, "containers", [address]),
            masquerade: Set::new(&table, "masqueraded", [address, address]),
            masquerade_all: Set::new(&table, "masqueraded_all", [address]),
            conditional: Chain::regular(&table, "conditional"),
            neighbours: Chain::regular(&table, "neighbours"),
            prerouting: nat("mapped_prerouting", Hook::Prerouting, BEHIND_DSTNAT),
            output: nat("mapped_output", Hook::Output, BEHIND_DSTNAT),
            mapped: Chain::regular(&table, "mapped"),
            targets: Chain::regular(&table, "mapped_targets"),
            sources: nat("mapped_sources", Hook::Postrouting, BEFORE_SRCNAT),
            guard: Chain::base(&table, "guard_loopback", ChainType::Filter, Hook::Prerouting, RAW),
            table,
        }
    }

    fn source(&self) -> Field {
        match self.family {
            Family::V4 => Field::IpSaddr,
            Family::V6 => Field::Ip6Saddr,
        }
    }

    fn destination(&self) -> Field {
        match self.family {
            Family::V4 => Field::IpDaddr,
            Family::V6 => Field::Ip6Daddr,
        }
    }

    fn nft_family(&self) -> NftFamily {
        self.table.family
    }

    pub(super) fn sets(&self) -> [&Set; 6] {
        [
            &self.any_address,
            &self.one_address,
            &self.one_address_ports,
            &self.containers,
            &self.masquerade,
            &self.masquerade_all,
        ]
    }

    /// Chains whose rules are the same for everybody, with these rules.
    fn shared_rules(&self, mark: u32, guarded: bool) -> Vec<(&Chain, Vec<Rule>)> {
        let rule = Rule::new;
        let local = |chain| rule(chain).fib_daddr(AddrType::Local).jump(&self.mapped.name);
        let (source, destination) = (self.source(), self.destination());
        let port = [Field::L4proto, Field::Dport(None)];
        let address_and_port = [destination, Field::L4proto, Field::Dport(None)];
        let (mapped, targets, sources) = (&self.mapped, &self.targets, &self.sources);
        let twice = [destination, destination];
        let mut chains = vec![
            (
                targets,
                vec![
                    rule(targets).dnat_map(
                        self.nft_family(),
                        address_and_port,
                        &self.one_address.name,
                    ),
                    rule(targets).dnat_map(self.nft_family(), port, &self.any_address.name),
                ],
            ),
            // The mark says that the destination was rewritten here. It is
            // taken off again where nothing was, and on the way out.
            (
                mapped,
                vec![
                    rule(mapped).jump(&self.conditional.name),
                    rule(mapped).mark_masked(mark, mark).goto(&targets.name),
                    rule(mapped).set_mark(MarkChange::or(mark)),
                    rule(mapped).jump(&targets.name),
                    rule(mapped).set_mark(MarkChange::and(!mark)),
                ],
            ),
            (&self.prerouting, vec![local(&self.prerouting)]),
            (&self.output, vec![local(&self.output)]),
            (
                sources,
                vec![
                    rule(sources).mark_masked_not(mark, mark).return_(),
                    rule(sources).not_in_set([destination], &self.containers.name).return_(),
                    rule(sources).in_set([destination], &self.masquerade_all.name).masquerade(),
                    rule(sources).in_set([source, destination], &self.masquerade.name).masquerade(),
                    rule(sources).in_set(twice, &self.masquerade.name).jump(&self.neighbours.name),
                    rule(sources).set_mark(MarkChange::and(!mark)),
                ],
            ),
        ];
        if guarded {
            chains.push((&self.guard, self.guard_rules()));
        }
        chains
    }

    fn guard_rules(&self) -> Vec<Rule> {
        let Ok(loopback) = LOOPBACK.parse::<IpNetwork>() else { return Vec::new() };
        let from_elsewhere = || Rule::new(&self.guard).iifname_not("lo");
        vec![from_elsewhere().ip_daddr(loopback).drop(), from_elsewhere().ip_saddr(loopback).drop()]
    }

    fn chains(&self) -> [&Chain; 8] {
        [
            &self.conditional,
            &self.neighbours,
            &self.targets,
            &self.mapped,
            &self.prerouting,
            &self.output,
            &self.sources,
            &self.guard,
        ]
    }

    /// Adds the table, its sets and its chains; that of the guard only where it
    /// is wanted.
    pub(super) fn add_objects(&self, guarded: bool, out: &mut Transaction) {
        out.add(&self.table);
        for set in self.sets() {
            out.add(set);
        }
        for chain in self.chains().into_iter().filter(|chain| guarded || **chain != self.guard) {
            out.add(chain);
        }
    }

    /// Takes the table of nobody away. Of one with the guard, which has these
    /// chains, that stays: `route_localnet` stays on the links, too.
    pub(super) fn delete_unused(&self, chains: &[Chain], out: &mut Transaction) {
        out.delete(&self.table);
        if chains.iter().any(|chain| chain.name == self.guard.name) {
            out.add(&self.table);
            out.add(&self.guard);
            for rule in self.guard_rules() {
                out.add(rule);
            }
        }
    }

    /// Plans what is missing of the table, its sets, chains and shared rules.
    /// A chain whose rules are others, because somebody changed them or because
    /// another mark is wanted now, is written anew.
    pub(super) fn plan_shared(
        &self,
        socket: &Socket,
        mark: u32,
        guarded: bool,
        out: &mut Transaction,
    ) -> Result<()> {
        let mut wanted = Transaction::new();
        self.add_objects(guarded, &mut wanted);
        let missing = out.operations().len();
        socket.plan_missing(&wanted, out)?;
        let is_new = out.operations().len() - missing == wanted.operations().len();
        for (chain, rules) in self.shared_rules(mark, guarded) {
            socket.plan_rules(chain, rules, is_new, out)?;
        }
        Ok(())
    }

    /// The rule for packets between the neighbours in a subnet.
    pub(super) fn neighbours_rule(&self, subnet: IpNetwork) -> Rule {
        Rule::new(&self.neighbours).ip_saddr(subnet).ip_daddr(subnet).masquerade()
    }

    /// The two rules of a mapping under conditions, in nft's words: what the
    /// conditions allow is rewritten, and nothing else is.
    pub(super) fn conditional_rules(
        &self,
        mapping: &Mapping,
        target: IpAddr,
        mark: u32,
        conditions: &[String],
        comment: &str,
    ) -> [String; 2] {
        let rewritten = self
            .to_host_port(&mapping.host)
            .set_mark(MarkChange::or(mark))
            .dnat(target, Some(mapping.container_port))
            .comment(comment);
        let rest = self.unconditional_end(&mapping.host, comment);
        let head = format!("add rule {}", self.conditional);
        [format!("{head} {} {rewritten}", conditions.join(" ")), format!("{head} {rest}")]
    }

    /// The second of the two.
    pub(super) fn unconditional_end(&self, host: &HostPort, comment: &str) -> Rule {
        self.to_host_port(host).accept().comment(comment)
    }

    fn to_host_port(&self, host: &HostPort) -> Rule {
        let rule = Rule::new(&self.conditional);
        let rule = match host.address {
            Some(address) => rule.ip_daddr(IpNetwork::from(address)),
            None => rule,
        };
        rule.dport(host.protocol, host.port)
    }

    /// The set a host port stands in.
    pub(super) fn set_of(&self, host: &HostPort) -> &Set {
        match host.address {
            Some(_) => &self.one_address,
            None => &self.any_address,
        }
    }

    /// Whether a table with these chains and sets holds nothing but what this
    /// plugin and upstream's make for everybody.
    pub(super) fn is_all(&self, chains: &[Chain], sets: &[Set]) -> bool {
        let known = |name: &str| {
            self.chains().iter().any(|chain| chain.name == name)
                || UPSTREAM_CHAINS.contains(&name)
                || UPSTREAM_SHARED_CHAINS.contains(&name)
        };
        chains.iter().all(|chain| known(&chain.name))
            && sets.iter().all(|set| {
                self.sets().iter().chain([&&self.waiting]).any(|own| own.name == set.name)
            })
    }
}

/// Protocol and port, as a key.
pub(super) fn port_key(host: &HostPort) -> Element {
    Element::new(host.protocol).and(host.port)
}

/// What [`port_key`] wrote.
pub(super) fn port_of(element: &Element) -> Option<(Protocol, u16)> {
    match element.key.as_slice() {
        [Value::Protocol(protocol), Value::Port(port)] => Some((*protocol, *port)),
        _ => None,
    }
}

/// The key of a host port in its own set.
pub(super) fn key(host: &HostPort) -> Element {
    match host.address {
        Some(address) => Element::new(address).and(host.protocol).and(host.port),
        None => port_key(host),
    }
}

/// Source and destination pairs of a container that are masqueraded.
pub(super) fn masquerade_pairs(address: IpAddr) -> Vec<Element> {
    let mut pairs = vec![Element::new(address).and(address)];
    if address.is_ipv4() {
        pairs.push(Element::new(IpAddr::V4(Ipv4Addr::LOCALHOST)).and(address));
    }
    pairs
}

/// A mapping as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) mapping: Mapping,
    pub(super) target: IpAddr,
    pub(super) comment: String,
}

impl Claim {
    /// `None` for an element that somebody else made.
    pub(super) fn read(element: &Element) -> Option<Claim> {
        let (address, protocol, port) = match element.key.as_slice() {
            [Value::Protocol(protocol), Value::Port(port)] => (None, protocol, port),
            [Value::Net(net), Value::Protocol(protocol), Value::Port(port)] => {
                (Some(net.ip()), protocol, port)
            }
            _ => return None,
        };
        let Some(Data::Values(data)) = &element.data else { return None };
        let [Value::Net(target), Value::Port(container_port)] = data.as_slice() else {
            return None;
        };
        let host = HostPort { protocol: *protocol, port: *port, address };
        Some(Claim {
            mapping: Mapping { host, container_port: *container_port },
            target: target.ip(),
            comment: element.comment.clone().unwrap_or_default(),
        })
    }

    pub(super) fn element(&self) -> Element {
        let Mapping { host, container_port } = self.mapping;
        key(&host).to(self.target).to(container_port).comment(&self.comment)
    }

    /// One that waits; `None` for an element that somebody else made.
    pub(super) fn read_waiting(element: &Element) -> Option<Claim> {
        let [
            Value::Net(address),
            Value::Protocol(protocol),
            Value::Port(port),
            Value::Net(target),
            Value::Port(container_port),
        ] = element.key.as_slice()
        else {
            return None;
        };
        let address = Some(address.ip()).filter(|address| !address.is_unspecified());
        let host = HostPort { protocol: *protocol, port: *port, address };
        Some(Claim {
            mapping: Mapping { host, container_port: *container_port },
            target: target.ip(),
            comment: element.comment.clone().unwrap_or_default(),
        })
    }

    /// The element while it waits.
    pub(super) fn waiting_element(&self) -> Element {
        let Mapping { host, container_port } = self.mapping;
        let every = match Family::of(self.target) {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Element::new(host.address.unwrap_or(every))
            .and(host.protocol)
            .and(host.port)
            .and(self.target)
            .and(container_port)
            .comment(&self.comment)
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Option<&str> {
        chained::key_of(&self.comment)
    }
}

/// An address that mappings lead to, as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) address: IpAddr,
    pub(super) owner: String,
    /// How many mappings lead there, or would.
    pub(super) ports: usize,
    /// Whether some of them wait.
    pub(super) waits: bool,
    pub(super) place: Option<Place>,
}

impl Container {
    pub(super) fn element(&self) -> Element {
        // As long as the other: the place has the same room.
        let word = if self.waits { "waits" } else { "ports" };
        let mut comment = format!("{}, {word}: {}", self.owner, self.ports);
        if let Some(place) = &self.place {
            comment.push_str(&place.words(COMMENT_MAX - comment.len()));
        }
        Element::new(self.address).comment(comment)
    }

    /// `None` for an element that somebody else made.
    pub(super) fn read(element: &Element) -> Option<Container> {
        let [Value::Net(address)] = element.key.as_slice() else { return None };
        let comment = element.comment.as_deref()?;
        let owner = chained::key_of(comment)?.to_owned();
        let (waits, ports) =
            comment.split(", ").find_map(|word| match word.split_once(": ")? {
                ("ports", number) => Some((false, number)),
                ("waits", number) => Some((true, number)),
                _ => None,
            })?;
        Some(Container {
            address: address.ip(),
            owner,
            ports: ports.parse().ok()?,
            waits,
            place: Place::read(comment),
        })
    }

    /// As `own` sees it, who wants to know.
    pub(super) fn is_alive(&self, own: Option<&Place>) -> bool {
        self.place.as_ref().is_none_or(|place| place.is_alive(own))
    }
}

/// Whether a rule goes to a port of a protocol: for upstream's rules.
pub(super) fn destination_port(rule: &Rule) -> Option<(linux::nft::Protocol, u16)> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Match(m) if m.op == Op::Eq => match (m.fields.as_slice(), &m.operand) {
            ([Field::Dport(Some(protocol))], Operand::Value(Value::Port(port))) => {
                Some((*protocol, *port))
            }
            _ => None,
        },
        _ => None,
    })
}

/// The destination address a rule wants.
pub(super) fn destination_address(rule: &Rule) -> Option<IpAddr> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Match(m) if m.op == Op::Eq => match (m.fields.as_slice(), &m.operand) {
            ([Field::IpDaddr | Field::Ip6Daddr], Operand::Value(Value::Net(net))) => Some(net.ip()),
            _ => None,
        },
        _ => None,
    })
}
