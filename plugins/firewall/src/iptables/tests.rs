use super::*;
use crate::conf::{Isolation, Plan, Policy};
use attach::chained::Owner;
use linux::Family;
use linux::iptables::{Batch, Chain};

const ADDRESS: &str = "10.1.0.2";

fn plan(policy: Policy) -> Plan {
    let isolation = (policy != Policy::Open).then(|| Isolation { bridge: "cni0".into(), policy });
    Plan {
        named: None,
        admin_chain: "CNI-ADMIN".into(),
        zone: "trusted".into(),
        isolation,
        addresses: vec![ADDRESS.parse().expect("an address")],
        macs: Vec::new(),
        deny: Vec::new(),
        allow: Vec::new(),
    }
}

fn owner(id: &str) -> Owner {
    let network = cni::NetworkName::new("net").expect("valid");
    Owner::new(&network, &cni::AttachmentId { container_id: id.into(), ifname: "eth0".into() })
}

fn batch_for(saved: &Saved, plan: &Plan, owner: &Owner) -> String {
    let claimant = Claimant { plan, owner, container_id: "c", zone: None, beside: false };
    let mut batch = Batch::new(TABLE);
    add::plan(saved, &claimant, Family::V4, &mut batch);
    batch.to_string()
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), rules }
}

fn fresh() -> Saved {
    Saved { chains: vec![chain("FORWARD", Vec::new())] }
}

#[test]
fn isolation_stands_before_what_lets_through() {
    let owner = owner("c");
    let batch = batch_for(&fresh(), &plan(Policy::Isolated), &owner);
    let lines: Vec<&str> = batch.lines().collect();
    let at = |text: &str| {
        lines
            .iter()
            .position(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{text}\n{batch}"))
    };
    // Inserted at 1, the later one comes first.
    assert!(
        at("-j CNI-FORWARD")
            < at(
                "-I FORWARD 1 -m comment --comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\" -j CNI-ISOLATION-STAGE-1"
            )
    );
    assert!(at("-i cni0 ! -o cni0") < at("-i cni0 -o cni0"));
    assert!(at("-N CNI-ISOLATION-STAGE-2") < at("-A CNI-ISOLATION-STAGE-2"));
    // It is there already, and stays first.
    let jump = Rule::default().comment("older words").jump(STAGE_1);
    let saved = Saved {
        chains: vec![
            chain("FORWARD", vec![jump]),
            chain(STAGE_1, Vec::new()),
            chain(STAGE_2, Vec::new()),
        ],
    };
    let batch = batch_for(&saved, &plan(Policy::SameBridge), &owner);
    assert!(
        batch.contains(
            "-I FORWARD 2 -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD"
        ),
        "{batch}"
    );
    assert!(!batch.contains("-j CNI-ISOLATION-STAGE-1"), "{batch}");
}

#[test]
fn comments_make_no_difference() {
    let one = Rule::new("-o cni0").comment("a b").jump("DROP");
    assert!(same_but_for_comment(&one, &Rule::new("-o cni0 -j DROP")));
    assert!(same_but_for_comment(&one, &entering_bridge("cni0")));
    assert!(!same_but_for_comment(&one, &entering_bridge("cni1")));
}

#[test]
fn an_address_is_told_from_a_rule() {
    for rule in accepting(ADDRESS.parse().expect("an address")) {
        assert_eq!(address_of(&rule).map(|a| a.to_string()).as_deref(), Some(ADDRESS));
    }
    assert_eq!(address_of(&entering_bridge("cni0")), None);
    assert_eq!(address_of(&Rule::new("-s")), None);
}

#[test]
fn what_a_stranger_may_need_stays() {
    let owner = owner("c");
    let plan_ = plan(Policy::SameBridge);
    let claimant =
        Claimant { plan: &plan_, owner: &owner, container_id: "c", zone: None, beside: false };
    let words = owner.comment_with(&claimant.words("nftables"));
    let record = Rule::new("-s 10.1.0.2/32").comment(words);
    let own = |others: &[&str]| {
        let mut rules = vec![record.clone()];
        rules.extend(accepting(plan_.addresses[0]));
        for other in others {
            rules.extend(accepting(other.parse().expect("an address")));
        }
        Saved {
            chains: vec![
                chain("FORWARD", vec![Rule::default().comment("x").jump(STAGE_1)]),
                chain(OWN, rules),
                chain(STAGE_1, vec![leaving_bridge("cni0", "same-bridge"), end()]),
                chain(STAGE_2, vec![entering_bridge("cni0"), end()]),
            ],
        }
    };
    let batch_of = |saved: &Saved| {
        let leaving = remove::Leaving {
            belongs: &|key| key == owner.key(),
            only: None,
            leaves: &|_| true,
            addresses: &[],
            bridge: None,
        };
        let mut batch = Batch::new(TABLE);
        let gone = remove::plan(saved, Family::V4, &leaving, &mut batch);
        assert_eq!(gone.len(), 1);
        batch.to_string()
    };
    let alone = batch_of(&own(&[]));
    for text in
        ["-D CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT", "-X CNI-ISOLATION-STAGE-1", "-D FORWARD"]
    {
        assert!(alone.contains(text), "{text}\n{alone}");
    }
    let with_upstreams = batch_of(&own(&["10.1.0.9"]));
    assert!(with_upstreams.contains("-D CNI-FORWARD"), "{with_upstreams}");
    assert!(!with_upstreams.contains("ISOLATION"), "{with_upstreams}");
}
