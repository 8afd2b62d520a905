//! Against the real kernel, in network namespaces that end with their test:
//! refusals, the verb old kernels lack, missing things only, and others who
//! write at the same time. Needs root.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::nft::rule::{Field, Verdict};
use crate::nft::set::{Element, Elements, Protocol, Set, Type};
use crate::nft::{Before, ChainType, Family, Hook, Policy, Ruleset, Table, TableContents};

fn in_namespace(run: impl FnOnce(Socket) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: run as root");
        run(Socket::open().unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What an example owns: a base chain with three rules, and a map.
struct Layout {
    table: Table,
    checks: Chain,
    base: Chain,
    map: Set,
}

impl Layout {
    fn new() -> Layout {
        let table = Table::inet("t").comment("an example's");
        let checks = Chain::regular(&table, "checks").comment("by address");
        let base = Chain::base(&table, "post", ChainType::Nat, Hook::Postrouting, 100);
        let key = [Type::InetProto, Type::InetService];
        let map = Set::map(&table, "ports", key, [Type::Ipv4Addr, Type::InetService]);
        Layout { table, checks, base, map }
    }

    fn base_rules(&self) -> [Rule; 3] {
        let multicast = |text: &str| -> ipnetwork::IpNetwork { text.parse().unwrap() };
        [
            Rule::new(&self.base).ip_daddr(multicast("224.0.0.0/4")).return_(),
            Rule::new(&self.base).ip_daddr(multicast("ff00::/8")).return_(),
            Rule::new(&self.base).counter().goto("checks"),
        ]
    }

    fn port(port: u16) -> Element {
        let element = Element::new(Protocol::TCP).and(port).to(ip("10.0.0.5")).to(port);
        element.comment(format!("owner of {port}"))
    }

    fn wanted(&self, ports: impl Iterator<Item = u16>) -> Transaction {
        let mut wanted = Transaction::new();
        wanted.add(&self.table).add(&self.checks).add(&self.base).add(&self.map);
        for rule in self.base_rules() {
            wanted.add(rule);
        }
        wanted.add(Elements::of(&self.map, ports.map(Layout::port)));
        wanted
    }

    fn commit(&self, socket: &Socket) {
        socket.commit(&self.wanted(1..=3)).unwrap();
    }
}

/// A transaction of what `operations` adds to an empty one.
fn only(
    operations: impl for<'a> FnOnce(&'a mut Transaction) -> &'a mut Transaction,
) -> Transaction {
    let mut transaction = Transaction::new();
    operations(&mut transaction);
    transaction
}

fn texts(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::to_string).collect()
}

#[test]
fn nothing_to_do_asks_nothing() {
    in_namespace(|socket| {
        let before = socket.generation().unwrap();
        socket.commit(&Transaction::new()).unwrap();
        assert_eq!(socket.ensure(&Transaction::new()).unwrap(), 0);
        assert_eq!(socket.generation().unwrap(), before);
    });
}

#[test]
fn refusals_name_the_operation_and_leave_nothing_behind() {
    in_namespace(|socket| {
        let layout = Layout::new();
        let Layout { table, checks, base, map } = &layout;
        let refused = |transaction: &Transaction| {
            let before = socket.ruleset(None).unwrap();
            let error = socket.commit(transaction).expect_err("a refusal");
            assert_eq!(socket.ruleset(None).unwrap(), before, "{error}");
            error
        };

        let mut half = only(|t| t.add(table).add(checks));
        half.add(Rule::new(checks).jump("nowhere")).add(base);
        let error = refused(&half);
        assert!(error.is_not_found());
        assert_eq!(error.batch_index(), Some(2));
        assert_eq!(
            error.to_string(),
            "add rule inet t checks jump nowhere: no such file or directory: \
             its chain, or a chain or set it names, does not exist"
        );

        let error = refused(&only(|t| t.add(table).add(checks).delete(map)));
        assert!(error.is_not_found());
        assert_eq!(error.batch_index(), Some(2));
        assert!(refused(&only(|t| t.delete(table))).is_not_found());
        assert!(refused(&only(|t| t.add(checks))).is_not_found());

        layout.commit(&socket);
        let error = refused(&only(|t| t.create(table)));
        assert!(error.is_exists());
        assert_eq!(
            error.to_string(),
            "create table inet t { comment \"an example's\" ; }: file exists"
        );
        assert!(refused(&only(|t| t.create(checks))).is_exists());
        assert!(refused(&only(|t| t.create(map))).is_exists());
        let again = Elements::of(map, [Layout::port(3)]);
        assert!(refused(&only(|t| t.create(&again))).is_exists());
        let other =
            Elements::of(map, [Element { data: None, ..Layout::port(3) }.to(ip("10.0.0.6")).to(3)]);
        let error = refused(&only(|t| t.add(other)));
        assert!(error.is_exists());
        assert_eq!(
            error.to_string(),
            "add element inet t ports { tcp . 3 comment \"owner of 3\" : 10.0.0.6 . 3 }: \
             file exists: one of the keys is there with other data"
        );

        let error = refused(&only(|t| t.delete(checks)));
        assert!(error.is_busy());
        assert_eq!(
            error.to_string(),
            "delete chain inet t checks: device or resource busy: rules still use it"
        );
        assert!(refused(&only(|t| t.delete(Rule::at(checks, 999)))).is_not_found());
        let absent = Elements::of(map, [Layout::port(77)]);
        assert!(refused(&only(|t| t.delete(absent))).is_not_found());

        let input = Chain::base(table, "in", ChainType::Filter, Hook::Input, 0);
        let mut wrong_hook = only(|t| t.add(&input));
        let error = refused(wrong_hook.add(Rule::new(&input).masquerade()));
        assert!(error.is_unsupported());
        assert_eq!(error.batch_index(), Some(1));

        let long = only(|t| t.add(Rule::new(checks).accept().comment("x".repeat(129))));
        let error = refused(&long);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.batch_index(), Some(0));
        assert!(error.to_string().ends_with("a comment may have 128 bytes, not 129"), "{error}");
    });
}

#[test]
fn many_refusals_at_once() {
    in_namespace(|socket| {
        let chain = Chain::regular(&Table::inet("absent"), "c");
        let mut transaction = Transaction::new();
        for handle in 1..=3000 {
            transaction.delete(Rule::at(&chain, handle));
        }
        let error = socket.commit(&transaction).expect_err("a refusal");
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.batch_index(), Some(0));
        assert!(socket.tables(None).unwrap().is_empty(), "the socket is still in step");
    });
}

#[test]
#[expect(unsafe_code, reason = "libc has no wrapper for capset")]
fn without_privilege() {
    in_namespace(|socket| {
        // struct __user_cap_header_struct of version 3 for this thread, and two
        // structs __user_cap_data_struct without any capability.
        let header: [u32; 2] = [0x2008_0522, 0];
        let nothing = [0_u32; 6];
        // SAFETY: both pointers are to memory of the sizes that version 3 of
        // capset reads, and it writes only the version of an unknown header.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), nothing.as_ptr()) };
        assert_eq!(result, 0);
        let error = socket.commit(&only(|t| t.add(Table::ip("t")))).expect_err("a refusal");
        assert!(error.is_permission());
        assert_eq!(
            error.to_string(),
            "apply 1 nftables operations: operation not permitted: CAP_NET_ADMIN is needed"
        );
        assert!(socket.tables(None).expect_err("a refusal").is_permission());
    });
}

#[test]
fn absent_things_read_as_absent() {
    in_namespace(|socket| {
        let Layout { table, checks, map, .. } = Layout::new();
        assert_eq!(socket.tables(None).unwrap(), []);
        assert_eq!(socket.table(table.family, "t").unwrap(), None);
        assert_eq!(socket.chains(&table).unwrap(), []);
        assert_eq!(socket.chain(&table, "checks").unwrap(), None);
        assert_eq!(socket.rules(&checks).unwrap(), []);
        assert_eq!(socket.sets(&table).unwrap(), []);
        assert_eq!(socket.set(&table, "ports").unwrap(), None);
        assert!(socket.elements(&map).expect_err("no set").is_not_found());
        assert_eq!(socket.find_elements(&map, &[Layout::port(1)]).unwrap(), [None]);
        let ranges = map.interval();
        assert_eq!(socket.find_elements(&ranges, &[Layout::port(1)]).unwrap(), [None]);
        assert_eq!(socket.ruleset(None).unwrap(), Ruleset::default());
    });
}

#[test]
fn reads_what_it_owns_and_nothing_else() {
    in_namespace(|socket| {
        let layout = Layout::new();
        layout.commit(&socket);
        let other = Table::inet("t2");
        let decoy = Chain::regular(&other, "checks");
        socket.commit(&only(|t| t.add(&other).add(&decoy).add(Rule::new(&decoy).drop()))).unwrap();

        let names = |tables: Vec<Table>| -> Vec<String> {
            tables.into_iter().map(|table| table.name).collect()
        };
        assert_eq!(names(socket.tables(Some(Family::Inet)).unwrap()), ["t", "t2"]);
        assert_eq!(names(socket.tables(Some(Family::Ip)).unwrap()), [""; 0]);
        let read = socket.table(Family::Inet, "t").unwrap().unwrap();
        assert_eq!(Table { handle: None, ..read }, layout.table);
        let chains = socket.chains(&layout.table).unwrap();
        let plain: Vec<Chain> =
            chains.into_iter().map(|chain| Chain { handle: None, ..chain }).collect();
        assert_eq!(plain, [layout.checks.clone(), layout.base.clone()]);
        let rules = socket.rules(&layout.base).unwrap();
        assert_eq!(texts(&rules), texts(&layout.base_rules()));
        assert!(rules.iter().all(|rule| rule.handle.is_some()));
        let set = socket.set(&layout.table, "ports").unwrap().unwrap();
        assert_eq!(Set { handle: None, ..set.clone() }, layout.map);
        assert_eq!(socket.sets(&layout.table).unwrap(), std::slice::from_ref(&set));
        let asked = [Layout::port(2), Layout::port(9), Layout::port(3)];
        let found = socket.find_elements(&set, &asked).unwrap();
        assert_eq!(found, [Some(Layout::port(2)), None, Some(Layout::port(3))]);

        // Several sets at once, one of which is not there; more than one send.
        let many = (0..70).map(|port| Layout::port(port % 4)).collect::<Vec<_>>();
        let no_set = Set::new(&layout.table, "none", [Type::Ipv4Addr]);
        let asked = [
            Elements::of(&no_set, [Element::new(ip("10.0.0.1"))]),
            Elements::of(&set, many.clone()),
            Elements::of(&set, []),
            Elements::of(&set, [Layout::port(9), Layout::port(1)]),
        ];
        let found = socket.find_in_sets(&asked).unwrap();
        let known: Vec<_> =
            many.into_iter().map(|e| Some(e).filter(|e| *e != Layout::port(0))).collect();
        assert_eq!(found, [vec![None], known, vec![], vec![None, Some(Layout::port(1))]]);
        let ranges = Elements::of(&set.interval(), []);
        assert!(socket.find_in_sets(&[ranges]).is_err());
    });
}

/// Where `destroy` is known and where it is not, the same happens.
#[test]
fn destroy_is_the_same_with_and_without_the_verb() {
    for lacks_destroy in [false, true] {
        in_namespace(move |socket| {
            socket.lacks_destroy.set(lacks_destroy);
            let layout = Layout::new();
            let Layout { table, checks, base, map } = &layout;

            // Nothing is there.
            let before = socket.generation().unwrap();
            let absent = only(|t| {
                t.destroy(Elements::of(map, [Layout::port(1)]));
                t.destroy(Rule::at(base, 3)).destroy(map).destroy(base).destroy(table)
            });
            socket.commit(&absent).unwrap();
            assert_eq!(socket.generation().unwrap(), before);

            // Half of it is there.
            layout.commit(&socket);
            let rules = socket.rules(base).unwrap();
            let half = only(|t| {
                t.destroy(Elements::of(map, [2, 8, 3].map(Layout::port)));
                t.destroy(Elements::of(map, [Layout::port(9)]));
                t.destroy(Rule::at(base, rules[0].handle.unwrap()));
                t.destroy(Rule::at(base, 999)).destroy(Chain::regular(table, "other"))
            });
            socket.commit(&half).unwrap();
            assert_eq!(socket.elements(map).unwrap(), [Layout::port(1)]);
            assert_eq!(socket.rules(base).unwrap().len(), 2);

            // Made and destroyed in one go, and a whole table.
            let new = Table::ip("new");
            socket.commit(&only(|t| t.add(&new).destroy(&new))).unwrap();
            assert_eq!(socket.table(Family::Ip, "new").unwrap(), None);
            socket.commit(&only(|t| t.flush(table).destroy(checks).destroy(table))).unwrap();
            assert_eq!(socket.ruleset(None).unwrap(), Ruleset::default());

            // A rule without a handle is no whole chain.
            let all = only(|t| t.destroy(Rule::new(base)));
            assert_eq!(socket.commit(&all).expect_err("a refusal").kind(), ErrorKind::Invalid);
        });
    }
}

#[test]
fn a_kernel_without_destroy_is_noticed() {
    in_namespace(|socket| {
        let table = Table::ip("t");
        let transaction = only(|t| t.add(Table::ip("u")).destroy(&table));
        let refused = |errno, index: Option<usize>| {
            let error = Error::from_errno("destroy table ip t", errno);
            let error = match index {
                Some(index) => error.at_batch_index(index),
                None => error,
            };
            is_unknown_destroy(&error, &transaction)
        };
        assert!(refused(libc::EINVAL, Some(1)));
        assert!(!refused(libc::EINVAL, Some(0)), "the other operation is to blame");
        assert!(!refused(libc::EINVAL, None));
        assert!(!refused(libc::EBUSY, Some(1)));
        // This is how such a kernel answers: with a number nobody handles.
        let mut unknown =
            [batch_edge(BATCH_BEGIN), batch_edge(SUBSYSTEM << 8 | 0xf0), batch_edge(BATCH_END)];
        unknown[1].add_flags(NLM_F_ACK);
        let mut errors = Vec::new();
        socket.netlink.transact(&mut unknown, |_, _| {}, |_, error| errors.push(error)).unwrap();
        assert_eq!(errors.iter().map(Error::errno).collect::<Vec<_>>(), [Some(libc::EINVAL)]);
    });
}

#[test]
fn ensure_adds_only_what_is_missing() {
    in_namespace(|socket| {
        let layout = Layout::new();
        let wanted = layout.wanted(1..=200);
        assert_eq!(socket.ensure(&wanted).unwrap(), wanted.operations().len());
        let full = socket.ruleset(None).unwrap();
        let generation = socket.generation().unwrap();
        assert_eq!(socket.ensure(&wanted).unwrap(), 0);
        assert_eq!(socket.generation().unwrap(), generation, "nothing was sent");

        // A counter that has counted is the same rule.
        let rules = socket.rules(&layout.base).unwrap();
        let counted = Rule {
            statements: vec![
                crate::nft::Statement::Counter { packets: 7, bytes: 70 },
                crate::nft::Statement::Verdict(Verdict::Goto("checks".into())),
            ],
            ..rules[2].clone()
        };
        socket.commit(&only(|t| t.replace(counted))).unwrap();
        assert_eq!(socket.ensure(&wanted).unwrap(), 0);

        // Rules come back to their places, elements one by one.
        for missing in
            [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2], vec![0, 1, 2]]
        {
            let rules = socket.rules(&layout.base).unwrap();
            let mut change = only(|t| t.delete(Elements::of(&layout.map, [Layout::port(77)])));
            for at in &missing {
                change.delete(Rule::at(&layout.base, rules[*at].handle.unwrap()));
            }
            socket.commit(&change).unwrap();
            assert_eq!(socket.ensure(&wanted).unwrap(), missing.len() + 1);
            let now = texts(&socket.rules(&layout.base).unwrap());
            let expected = texts(&layout.base_rules());
            assert_eq!(now[..2], expected[..2], "without {missing:?}");
            assert!(now[2].ends_with("goto checks"), "without {missing:?}: {}", now[2]);
            assert_eq!(now.len(), 3);
        }
        // One that others added stays, in its place.
        let foreign = Rule::new(&layout.base).th_dport(1).accept();
        socket.commit(&only(|t| t.insert(&foreign))).unwrap();
        let first = socket.rules(&layout.base).unwrap()[1].clone();
        socket.commit(&only(|t| t.delete(first))).unwrap();
        assert_eq!(socket.ensure(&wanted).unwrap(), 1);
        let now = texts(&socket.rules(&layout.base).unwrap());
        assert_eq!(now[..2], [foreign.to_string(), layout.base_rules()[0].to_string()]);

        // The elements are all back; their order is that of a hash table.
        let sets = |ruleset: Ruleset| {
            let table = ruleset.tables.into_iter().next().unwrap();
            TableContents { chains: Vec::new(), ..table }.to_string()
        };
        assert_eq!(sets(socket.ruleset(None).unwrap()), sets(full));
    });
}

#[test]
fn ensure_finds_ranges_however_they_are_written() {
    in_namespace(|socket| {
        let table = Table::ip("t");
        let set = Set::new(&table, "s", [Type::Ipv4Addr]).interval();
        let range = |first: &str, last: &str| {
            Element::new(crate::nft::Value::NetRange(ip(first), ip(last)))
        };
        let mut wanted = only(|t| t.add(&table).add(&set));
        wanted.add(Elements::of(
            &set,
            [range("10.0.0.0", "10.0.0.255"), range("10.1.0.1", "10.1.0.9")],
        ));
        assert_eq!(socket.ensure(&wanted).unwrap(), 3);
        assert_eq!(socket.ensure(&wanted).unwrap(), 0);
        let listed: Vec<String> =
            socket.elements(&set).unwrap().iter().map(Element::to_string).collect();
        assert_eq!(listed, ["10.0.0.0/24", "10.1.0.1-10.1.0.9"]);
    });
}

#[test]
fn ensure_refuses_what_is_there_but_different() {
    in_namespace(|socket| {
        let layout = Layout::new();
        let Layout { table, checks, base, map } = &layout;
        layout.commit(&socket);
        let refused = |object: Object| {
            let wanted = only(|t| t.add(object));
            let error = socket.ensure(&wanted).expect_err("a refusal");
            assert!(error.is_exists());
            let text = error.to_string();
            let hint = ": another program has made it, or an older version of this one";
            text.strip_suffix(hint).expect("the hint").to_owned()
        };
        let hooked = Chain::base(table, "checks", ChainType::Filter, Hook::Input, 0);
        assert_eq!(
            refused(hooked.into()),
            "add chain inet t checks: it is there as a chain without a hook"
        );
        let moved = Chain::base(table, "post", ChainType::Nat, Hook::Postrouting, 99);
        let is = "type nat hook postrouting priority srcnat; policy accept;";
        assert_eq!(refused(moved.into()), format!("add chain inet t post: it is there as {is}"));
        let other = Set::new(table, "ports", [Type::InetService]);
        let is = "type inet_proto . inet_service : ipv4_addr . inet_service";
        assert_eq!(refused(other.into()), format!("add set inet t ports: it is there as {is}"));
        assert_eq!(
            refused(map.clone().interval().into()),
            format!("add map inet t ports: it is there as {is}")
        );
        let stolen = Layout::port(1).comment("somebody else");
        assert_eq!(
            refused(Elements::of(map, [stolen]).into()),
            "add element inet t ports { tcp . 1 comment \"somebody else\" : 10.0.0.5 . 1 }: \
             the key is there as tcp . 1 comment \"owner of 1\" : 10.0.0.5 . 1"
        );
        // The policy and comments are the administrator's to change.
        let open = base.clone().policy(Policy::Drop);
        let wanted = only(|t| t.add(open).add(checks.clone().comment("new")));
        assert_eq!(socket.ensure(&wanted).unwrap(), 0);
    });
}

#[test]
fn a_plan_is_made_again_when_the_rules_change() {
    in_namespace(|socket| {
        let other = Socket::open().unwrap();
        let mut plans = 0;
        socket
            .update(|socket, transaction| {
                let count = socket.tables(None)?.len();
                plans += 1;
                if plans <= 3 {
                    other.commit(&only(|t| t.add(Table::ip(format!("foreign{plans}")))))?;
                }
                transaction.create(Table::ip6(format!("seen{count}")));
                Ok(())
            })
            .unwrap();
        assert_eq!(plans, 4);
        let names: Vec<String> =
            socket.tables(Some(Family::Ip6)).unwrap().into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["seen3"]);

        let error = socket
            .update(|_, transaction| {
                plans += 1;
                other.commit(&only(|t| t.add(Table::ip(format!("more{plans}")))))?;
                transaction.add(Table::ip6("never"));
                Ok(())
            })
            .expect_err("no end");
        assert_eq!(
            error.to_string(),
            "change packet filter rules: the rules kept changing: \
             another program writes them all the time"
        );
        assert!(error.is_busy());
    });
}

/// Rules of a pair come and go together; no list shows half a pair.
#[test]
fn lists_are_whole_while_others_write() {
    in_namespace(|socket| {
        let layout = Layout::new();
        layout.commit(&socket);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (layout, stop) = (&layout, &stop);
            scope.spawn(move || {
                let writer = Socket::open().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let mut pairs = Transaction::new();
                    for port in 0..100 {
                        let rule = Rule::new(&layout.checks).th_dport(port).accept();
                        pairs.add(&rule).insert(&rule);
                    }
                    writer.commit(&pairs).unwrap();
                    let mut gone = Transaction::new();
                    for rule in writer.rules(&layout.checks).unwrap() {
                        gone.delete(rule);
                    }
                    writer.commit(&gone).unwrap();
                }
            });
            for _ in 0..200 {
                let rules = socket.rules(&layout.checks).unwrap();
                assert!(rules.is_empty() || rules.len() == 200, "{} rules", rules.len());
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// Many at once, each with what all share and something of its own.
#[test]
fn parallel_ensures_make_shared_things_once() {
    in_namespace(|socket| {
        let layout = Layout::new();
        std::thread::scope(|scope| {
            for number in 1..=8 {
                let layout = &layout;
                scope.spawn(move || {
                    let socket = Socket::open().unwrap();
                    let mut wanted = layout.wanted(std::iter::once(number));
                    let own = Rule::new(&layout.checks).th_dport(number).masquerade();
                    wanted.add(own.comment(format!("c{number}")));
                    socket.ensure(&wanted).unwrap();
                });
            }
        });
        assert_eq!(texts(&socket.rules(&layout.base).unwrap()), texts(&layout.base_rules()));
        assert_eq!(socket.rules(&layout.checks).unwrap().len(), 8);
        assert_eq!(socket.elements(&layout.map).unwrap().len(), 8);
    });
}

/// A set without a port in its key: fields that are looked up alone.
#[test]
fn chains_that_rules_name_must_exist_first() {
    in_namespace(|socket| {
        let table = Table::bridge("b");
        let top = Chain::base(&table, "top", ChainType::Filter, Hook::Prerouting, -300);
        let own = Chain::regular(&table, "own");
        let map = Set::verdict_map(&table, "ports", [Type::Ifname]);
        let mut wanted = only(|t| t.add(&table).add(&top).add(&own).add(&map));
        wanted.add(Rule::new(&top).vmap([Field::Iifname], "ports"));
        wanted
            .add(Elements::of(&map, [Element::new("veth0").verdict(Verdict::Jump("own".into()))]));
        socket.ensure(&wanted).unwrap();
        let error = socket.commit(&only(|t| t.delete(&own))).expect_err("in use");
        assert!(error.is_busy());
        let mut gone = only(|t| t.delete(Elements::of(&map, [Element::new("veth0")])));
        socket.commit(gone.delete(&own)).unwrap();
        assert_eq!(socket.chain(&table, "own").unwrap(), None);
    });
}

/// A change, and what another program did before it was taken back.
#[test]
fn what_was_changed_comes_back_and_what_others_did_stays() {
    in_namespace(|socket| {
        let layout = Layout::new();
        layout.commit(&socket);
        let text = |socket: &Socket| socket.ruleset(None).unwrap().to_string();
        let was = text(&socket);
        let new_table = Table::ip("new");
        let new_chain = Chain::regular(&new_table, "c");
        let element = |port, to: &str| {
            Element::new(Protocol::TCP).and(port).to(ip(to)).to(port).comment("later")
        };
        let [first, second, _] = layout.base_rules();
        let change = |socket: &Socket| {
            let mut change = Transaction::new();
            change.add(&new_table).add(&new_chain).add(Rule::new(&new_chain).accept());
            change.delete(Elements::of(&layout.map, [Layout::port(1), Layout::port(2)]));
            let new = [element(2, "10.0.0.6"), element(7, "10.0.0.7")];
            change.add(Elements::of(&layout.map, new));
            let rules = socket.rules(&layout.base).unwrap();
            change.delete(&rules[1]).add(&first).add(Rule::new(&layout.checks).accept());
            let before = socket.remember(&change).unwrap();
            (change, before)
        };
        let plan_back = |socket: &Socket, before: &Before| {
            let mut back = Transaction::new();
            socket.plan_back(before, &mut back).unwrap();
            back
        };
        let (transaction, before) = change(&socket);
        assert!(plan_back(&socket, &before).is_empty(), "nothing was changed yet");
        socket.commit(&transaction).unwrap();
        assert_ne!(text(&socket), was);
        socket.commit(&plan_back(&socket, &before)).unwrap();
        assert_eq!(text(&socket), was);

        let (transaction, before) = change(&socket);
        socket.commit(&transaction).unwrap();
        let mut others = Transaction::new();
        others.delete(Elements::of(&layout.map, [element(7, "10.0.0.7")]));
        others.add(Elements::of(&layout.map, [element(7, "10.0.0.8"), element(1, "10.0.0.9")]));
        others.insert(second.comment("another's"));
        others.add(Rule::new(&new_chain).drop().comment("another's"));
        socket.commit(&others).unwrap();
        socket.commit(&plan_back(&socket, &before)).unwrap();
        let now = text(&socket);
        for stays in ["10.0.0.8", "10.0.0.9", "drop comment \"another's\"", "return comment"] {
            assert!(now.contains(stays), "{stays}: {now}");
        }
        assert!(now.contains("owner of 2") && !now.contains("owner of 1\""), "{now}");
        assert!(!now.contains("accept\n"), "{now}");
    });
}

#[test]
fn a_table_that_was_deleted_comes_back_whole() {
    in_namespace(|socket| {
        let layout = Layout::new();
        layout.commit(&socket);
        let was = socket.ruleset(None).unwrap().to_string();
        let mut change = Transaction::new();
        change.delete(&layout.table).add(&layout.table).add(&layout.checks);
        let before = socket.remember(&change).unwrap();
        socket.commit(&change).unwrap();
        socket.update(|socket, out| socket.plan_back(&before, out)).unwrap();
        assert_eq!(socket.ruleset(None).unwrap().to_string(), was);
    });
}
