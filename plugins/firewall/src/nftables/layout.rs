//! Names and rules of the table, which all attachments share.

use attach::chained;
use attach::identity::digest;
use ipnetwork::IpNetwork;
use linux::nft::{
    Chain, ChainType, CtState, Element, Field, Hook, Protocol, Rule, Set, Socket, Table,
    Transaction, Type, Value,
};
use linux::{Family, Result};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Claimant;
use crate::conf::{Isolation, Policy};

/// `filter`, where iptables' rules are as well.
const FILTER: i32 = 0;

/// What the names of chains with denied destinations begin with.
pub(super) const EGRESS: &str = "egress_";

const OWN_CHAINS: [&str; 4] = ["forward", "input", "isolation", "admins"];

/// Whether a chain of this name is, or could be, this plugin's.
pub(crate) fn is_own_chain(name: &str) -> bool {
    OWN_CHAINS.contains(&name) || name.starts_with(EGRESS)
}

pub(super) struct Layout {
    pub(super) table: Table,
    containers: [Set; 2],
    egress: [Set; 2],
    /// Hardware addresses whose destinations are limited, each with its owner.
    pub(super) egress_mac: Set,
    pub(super) bridges: Set,
    /// Pairs of the same bridge twice, as rules cannot compare two fields.
    pub(super) same_bridge: Set,
    pub(super) isolated: Set,
    pub(super) admins: Chain,
    pub(super) forward: Chain,
    input: Chain,
    isolation: Chain,
}

impl Layout {
    pub(super) fn new() -> Layout {
        let table = Table::inet("cni_firewall").comment("CNI firewall plugin");
        let filter = |name, hook| Chain::base(&table, name, ChainType::Filter, hook, FILTER);
        let pair = [Type::Ifname, Type::Ifname];
        Layout {
            containers: [
                Set::new(&table, "containers4", [Type::Ipv4Addr]),
                Set::new(&table, "containers6", [Type::Ipv6Addr]),
            ],
            egress: [
                Set::verdict_map(&table, "egress4", [Type::Ipv4Addr]),
                Set::verdict_map(&table, "egress6", [Type::Ipv6Addr]),
            ],
            egress_mac: Set::verdict_map(&table, "egress_mac", [Type::EtherAddr]),
            bridges: Set::new(&table, "bridges", [Type::Ifname]),
            same_bridge: Set::new(&table, "same_bridge", pair),
            isolated: Set::new(&table, "isolated", pair),
            admins: Chain::regular(&table, "admins"),
            forward: filter("forward", Hook::Forward),
            input: filter("input", Hook::Input),
            isolation: Chain::regular(&table, "isolation"),
            table,
        }
    }

    /// Addresses that are let through.
    pub(super) fn containers(&self, family: Family) -> &Set {
        &self.containers[usize::from(family == Family::V6)]
    }

    /// Addresses whose destinations are limited, and to what.
    pub(super) fn egress(&self, family: Family) -> &Set {
        &self.egress[usize::from(family == Family::V6)]
    }

    pub(super) fn sets(&self) -> [&Set; 8] {
        let [containers4, containers6] = &self.containers;
        let [egress4, egress6] = &self.egress;
        [
            containers4,
            containers6,
            egress4,
            egress6,
            &self.egress_mac,
            &self.bridges,
            &self.same_bridge,
            &self.isolated,
        ]
    }

    /// A chain of the administrator's.
    pub(super) fn admin(&self, name: &str) -> Chain {
        Chain::regular(&self.table, name)
    }

    /// Chains whose rules are the same for everybody, with these rules.
    fn shared_rules(&self) -> Vec<(&Chain, Vec<Rule>)> {
        let (forward, input, isolation) = (&self.forward, &self.input, &self.isolation);
        let rule = Rule::new;
        let limited = |chain| {
            [
                rule(chain).vmap([Field::EtherSaddr], &self.egress_mac.name),
                rule(chain).vmap([Field::IpSaddr], &self.egress[0].name),
                rule(chain).vmap([Field::Ip6Saddr], &self.egress[1].name),
            ]
        };
        let from =
            |field, family| rule(forward).in_set([field], &self.containers(family).name).accept();
        let answers = CtState::ESTABLISHED | CtState::RELATED;
        let to = |field, family| {
            let name = &self.containers(family).name;
            rule(forward).in_set([field], name).ct_state(answers).accept()
        };
        let ways = [Field::Iifname, Field::Oifname];
        let mut of_forward = vec![rule(forward).jump(&isolation.name)];
        of_forward.extend(limited(forward));
        of_forward.push(rule(forward).jump(&self.admins.name));
        of_forward.extend([
            from(Field::IpSaddr, Family::V4),
            from(Field::Ip6Saddr, Family::V6),
            to(Field::IpDaddr, Family::V4),
            to(Field::Ip6Daddr, Family::V6),
        ]);
        vec![
            (
                isolation,
                vec![
                    rule(isolation).in_set(ways, &self.isolated.name).drop(),
                    rule(isolation).in_set(ways, &self.same_bridge.name).return_(),
                    rule(isolation)
                        .in_set([Field::Iifname], &self.bridges.name)
                        .in_set([Field::Oifname], &self.bridges.name)
                        .drop(),
                ],
            ),
            (forward, of_forward),
            (input, limited(input).into()),
        ]
    }

    /// Adds the table, its sets and chains, and the administrator's chain with the
    /// way there.
    pub(super) fn add_objects(&self, admin: &str, out: &mut Transaction) {
        out.add(&self.table);
        for set in self.sets() {
            out.add(set);
        }
        out.add(&self.admins).add(self.admin(admin));
        out.add(&self.isolation).add(&self.forward).add(&self.input);
        out.add(Rule::new(&self.admins).jump(admin));
    }

    /// Plans what is missing of the table, its sets, chains and shared rules,
    /// and the administrator's chain. A chain whose rules are others is written
    /// anew; an administrator's is left as it is.
    pub(super) fn plan_shared(
        &self,
        socket: &Socket,
        admin: &str,
        out: &mut Transaction,
    ) -> Result<()> {
        let mut wanted = Transaction::new();
        self.add_objects(admin, &mut wanted);
        let before = out.operations().len();
        socket.plan_missing(&wanted, out)?;
        let is_new = out.operations().len() - before == wanted.operations().len();
        for (chain, rules) in self.shared_rules() {
            socket.plan_rules(chain, rules, is_new, out)?;
        }
        Ok(())
    }
}

/// A chain that drops what goes to denied destinations. Networks with the same
/// lists share it.
pub(super) struct Egress {
    pub(super) chain: String,
    deny: Vec<IpNetwork>,
    allow: Vec<IpNetwork>,
}

impl Egress {
    pub(super) fn new(deny: &[IpNetwork], allow: &[IpNetwork]) -> Egress {
        let mut text = String::new();
        for (word, networks) in [("deny", deny), ("allow", allow)] {
            for network in networks {
                let _ = write!(text, "{word} {network} ");
            }
        }
        Egress {
            chain: format!("{EGRESS}{}", digest(&text, 16)),
            deny: deny.into(),
            allow: allow.into(),
        }
    }

    pub(super) fn plan(
        &self,
        socket: &Socket,
        layout: &Layout,
        fresh: bool,
        out: &mut Transaction,
    ) -> Result<()> {
        let chain = Chain::regular(&layout.table, &self.chain);
        let rule = || Rule::new(&chain);
        // What it answers it was asked for.
        let answers = CtState::ESTABLISHED | CtState::RELATED;
        let mut rules = vec![rule().ct_state(answers).return_()];
        rules.extend(of_the_link(rule));
        rules.extend(self.allow.iter().map(|to| rule().ip_daddr(*to).return_()));
        rules.extend(self.deny.iter().map(|to| rule().ip_daddr(*to).drop()));
        let is_new = fresh || socket.chain(&layout.table, &self.chain)?.is_none();
        if is_new {
            out.add(&chain);
        }
        socket.plan_rules(&chain, rules, is_new, out)
    }
}

/// Lets pass what keeps a link usable and no router forwards, so that the rest of
/// the lists is about destinations alone: neighbour and router discovery of IPv6,
/// and what clients of DHCP send to whoever serves the link.
fn of_the_link(rule: impl Fn() -> Rule) -> [Rule; 3] {
    // Conntrack leaves these types of ICMPv6 alone (`noct_valid_new`,
    // net/netfilter/nf_conntrack_proto_icmpv6.c at v6.18); with this hop limit
    // they come from the link itself (RFC 4861, section 7.1), also where the
    // kernel filters what passes between ports of a bridge.
    let discovery = rule().l4proto(Protocol::ICMPV6).hop_limit(255);
    // RFC 2131, section 4.1; RFC 8415, sections 7.1 and 7.2.
    let (broadcast, servers) = (Ipv4Addr::BROADCAST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2));
    [
        discovery.ct_state(CtState::UNTRACKED).return_(),
        rule().ip_daddr(IpAddr::from(broadcast)).dport(Protocol::UDP, 67).return_(),
        rule().ip_daddr(IpAddr::from(servers)).dport(Protocol::UDP, 547).return_(),
    ]
}

/// Whose an element with a comment of [`Owner`] is.
pub(super) fn owner_of(element: &Element) -> Option<&str> {
    chained::key_of(element.comment.as_deref()?)
}

impl Claimant<'_> {
    /// The words behind the owner that record what an attachment needs, and that the
    /// `other` backend has rules of it as well; the ID of the container, for people,
    /// is last and may be cut.
    pub(crate) fn words(&self, other: &str) -> String {
        let mut words = String::new();
        if self.beside {
            let _ = write!(words, "with: {other}, ");
        }
        if let Some(Isolation { bridge, policy }) = &self.plan.isolation {
            let _ = write!(words, "policy: {}, bridge: {bridge}, ", policy.name());
        }
        if let Some(zone) = self.zone {
            let _ = write!(words, "zone: {zone}, ");
        }
        words + "id: " + self.container_id
    }
}

/// An address that is let through, as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) address: IpAddr,
    pub(crate) owner: String,
    pub(crate) isolation: Option<Isolation>,
    /// The zone of firewalld it was put in.
    pub(crate) zone: Option<String>,
}

impl Container {
    pub(super) fn element(address: IpAddr, claimant: &Claimant) -> Element {
        Element::new(address).comment(claimant.owner.comment_with(&claimant.words("iptables")))
    }

    /// What [`Claimant::words`] wrote, behind the key of an owner.
    pub(crate) fn parse(address: IpAddr, comment: &str) -> Option<Container> {
        let owner = chained::key_of(comment)?.to_owned();
        let word = |name: &str| {
            let mut words = comment.split(", ");
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let policy = word("policy").and_then(|text| Policy::parse(&text));
        let isolation =
            policy.zip(word("bridge")).map(|(policy, bridge)| Isolation { bridge, policy });
        Some(Container { address, owner, isolation, zone: word("zone") })
    }

    /// `None` for an element that somebody else made.
    pub(super) fn read(element: &Element) -> Option<Container> {
        let [Value::Net(address)] = element.key.as_slice() else { return None };
        Container::parse(address.ip(), element.comment.as_deref()?)
    }
}
