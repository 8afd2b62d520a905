//! Chains of iptables-nft as `iptables-save` would print them, and batches that
//! remove rules from them, by netlink: nothing is executed, nor need iptables be
//! installed any more.
//!
//! Words are found only for a rule that consists of addresses, interfaces, states
//! of a connection, a comment and a target. Any other is [`NOT_UNDERSTOOD`], with
//! its target, and so none that a caller would look for.

use super::batch::{Batch, Chain, Line, Rule, Saved};
use super::stored::{comment_of, expressions, verdict_of};
use crate::error::{Error, Result};
use crate::netlink::{Attr, Attrs};
use crate::nft::{self, Field, Match, Op, Operand, Socket, Statement, Transaction, Value, Verdict};
use ipnetwork::IpNetwork;

/// Stands for everything in a rule that has no words here.
const NOT_UNDERSTOOD: &str = "?";

/// Some chains of a table of iptables-nft.
#[derive(Debug)]
pub struct Stored {
    table: nft::Table,
    saved: Saved,
    /// Of each rule of each chain.
    handles: Vec<Vec<u64>>,
}

impl Stored {
    /// Reads those of the chains that are there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read(socket: &Socket, table: &nft::Table, chains: &[&str]) -> Result<Stored> {
        let mut stored =
            Stored { table: table.clone(), saved: Saved::default(), handles: Vec::new() };
        for name in chains {
            let Some(chain) = socket.chain(table, name)? else { continue };
            let rules = socket.rules(&chain)?;
            stored.handles.push(rules.iter().map(|rule| rule.handle.unwrap_or(0)).collect());
            let rules = rules.iter().map(words_of).collect();
            stored.saved.chains.push(Chain { name: chain.name, rules });
        }
        Ok(stored)
    }

    /// The chains in words.
    #[must_use]
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Plans what a batch of removals ([`Batch::delete`], [`Batch::flush`],
    /// [`Batch::delete_chain`]) would do.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` for anything else, and for a rule that is not there.
    pub fn plan(&self, batch: &Batch, out: &mut Transaction) -> Result<()> {
        let mut left: Vec<Vec<(&Rule, u64)>> = Vec::new();
        for (chain, handles) in self.saved.chains.iter().zip(&self.handles) {
            left.push(chain.rules.iter().zip(handles.iter().copied()).collect());
        }
        for line in batch.lines() {
            let refused = || {
                let told = format!("{line:?} removes nothing that is there");
                Error::invalid(format!("change table {}", self.table.name), told)
            };
            let Line::Command(command, name, _, rule) = line else { return Err(refused()) };
            let at = self.saved.chains.iter().position(|chain| chain.name == *name);
            let rules = at.and_then(|at| left.get_mut(at)).ok_or_else(refused)?;
            let chain = nft::Chain::regular(&self.table, name.as_str());
            match (*command, rule) {
                ("-D", Some(rule)) => {
                    let found = rules.iter().position(|(there, _)| *there == rule);
                    let (_, handle) = rules.remove(found.ok_or_else(refused)?);
                    out.delete(nft::Rule::at(&chain, handle));
                }
                ("-F", None) => {
                    rules.clear();
                    out.flush(chain);
                }
                ("-X", None) => {
                    out.delete(chain);
                }
                _ => return Err(refused()),
            }
        }
        Ok(())
    }
}

/// What a rule looks at, in the order `iptables-save` prints it.
#[derive(Default)]
struct Looks {
    /// `-s`, `-d`, `-i`, `-o`.
    options: [Option<(Op, String)>; 4],
    states: bool,
    not_understood: bool,
}

const OPTIONS: [&str; 4] = ["-s", "-d", "-i", "-o"];
const SOURCE: usize = 0;
const DESTINATION: usize = 1;
const IN: usize = 2;
const OUT: usize = 3;

/// A rule's words; see the top of this file.
fn words_of(rule: &nft::Rule) -> Rule {
    let mut looks = Looks::default();
    for statement in &rule.statements {
        match statement {
            Statement::Opaque(bytes) => looks.read(bytes),
            Statement::Match(found) => looks.take(found),
            Statement::Counter { .. } | Statement::Verdict(_) => {}
            _ => looks.not_understood = true,
        }
    }
    let mut words = Rule::default();
    for (option, found) in OPTIONS.iter().zip(&looks.options) {
        let Some((op, value)) = found else { continue };
        words = words.words(if *op == Op::Ne { "!" } else { "" }).word(*option).word(value);
    }
    if looks.states {
        words = words.words("-m conntrack --ctstate RELATED,ESTABLISHED");
    }
    if looks.not_understood {
        words = words.word(NOT_UNDERSTOOD);
    }
    if let Some(comment) = comment_of(rule) {
        words = words.comment(comment);
    }
    match verdict_of(rule) {
        None => words,
        Some(Verdict::Goto(chain)) => words.word("-g").word(chain),
        Some(Verdict::Jump(chain)) => words.jump(chain),
        Some(Verdict::Accept) => words.jump("ACCEPT"),
        Some(Verdict::Drop) => words.jump("DROP"),
        Some(Verdict::Return) => words.jump("RETURN"),
        Some(_) => words.word(NOT_UNDERSTOOD),
    }
}

impl Looks {
    fn set(&mut self, option: usize, op: Op, value: String) {
        match self.options.get_mut(option) {
            Some(free @ None) => *free = Some((op, value)),
            _ => self.not_understood = true,
        }
    }

    /// What this crate reads of itself.
    fn take(&mut self, found: &Match) {
        let Operand::Value(value) = &found.operand else {
            self.not_understood = true;
            return;
        };
        let (option, text) = match (found.fields.as_slice(), value) {
            ([Field::IpSaddr | Field::Ip6Saddr], Value::Net(net)) => (SOURCE, net.to_string()),
            ([Field::IpDaddr | Field::Ip6Daddr], Value::Net(net)) => (DESTINATION, net.to_string()),
            ([Field::Iifname], Value::Ifname(name)) => (IN, name.clone()),
            ([Field::Oifname], Value::Ifname(name)) => (OUT, name.clone()),
            _ => {
                self.not_understood = true;
                return;
            }
        };
        self.set(option, found.op, text);
    }

    /// What it does not, as there is a match of iptables in it.
    fn read(&mut self, bytes: &[u8]) {
        let mut loaded = None;
        for (name, data) in expressions(bytes) {
            let understood = match name {
                "counter" | "immediate" => true,
                "payload" | "meta" => {
                    loaded = option_of(name, data);
                    loaded.is_some()
                }
                "cmp" => loaded.take().and_then(|at| self.compare(at, data)).is_some(),
                // NFTA_MATCH_NAME, NFTA_MATCH_INFO
                "match" => match data.find(1).and_then(|attr| attr.str()) {
                    Some("comment") => true,
                    Some("conntrack") => {
                        self.states = data.find(3).is_some_and(|info| is_answer(info.payload));
                        self.states
                    }
                    _ => false,
                },
                _ => false,
            };
            self.not_understood |= !understood;
        }
    }

    fn compare(&mut self, option: usize, data: Attrs<'_>) -> Option<()> {
        // NFTA_CMP_OP: NFT_CMP_EQ, NFT_CMP_NEQ; NFTA_CMP_DATA, NFTA_DATA_VALUE
        let op = match data.find(2)?.be32()? {
            0 => Op::Eq,
            1 => Op::Ne,
            _ => return None,
        };
        let value = data.find(3)?.nested().find(1)?;
        let text = match option {
            IN | OUT => name_of(value)?,
            _ => IpNetwork::from(value.ip()?).to_string(),
        };
        self.set(option, op, text);
        Some(())
    }
}

/// Which option an expression loads the value of.
fn option_of(name: &str, data: Attrs<'_>) -> Option<usize> {
    let number = |kind| data.find(kind).and_then(|attr| attr.be32());
    if name == "meta" {
        // NFTA_META_KEY: NFT_META_IIFNAME, NFT_META_OIFNAME
        return match number(2)? {
            6 => Some(IN),
            7 => Some(OUT),
            _ => None,
        };
    }
    // NFTA_PAYLOAD_BASE: NFT_PAYLOAD_NETWORK_HEADER; _OFFSET, _LEN in the headers of
    // IPv4 and of IPv6.
    match (number(2)?, number(3)?, number(4)?) {
        (1, 12, 4) | (1, 8, 16) => Some(SOURCE),
        (1, 16, 4) | (1, 24, 16) => Some(DESTINATION),
        _ => None,
    }
}

/// A whole name, which ends with NUL; without, it is the beginning of names.
fn name_of(value: Attr<'_>) -> Option<String> {
    let end = value.payload.iter().position(|byte| *byte == 0)?;
    let name = value.payload.get(..end)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Whether a match is `--ctstate RELATED,ESTABLISHED` and nothing more: `struct
/// xt_conntrack_mtinfo3` (include/uapi/linux/netfilter/xt_conntrack.h at v6.18),
/// 146 bytes in: `match_flags`, `invert_flags`, `state_mask`.
fn is_answer(info: &[u8]) -> bool {
    /// `XT_CONNTRACK_STATE`, and `XT_CONNTRACK_STATE_ALIAS` of `-m state`.
    const STATE: [u16; 2] = [1, 1 | 1 << 13];
    /// `XT_CONNTRACK_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
    const ANSWER: u16 = 2 | 4;
    let numbers = info.get(146..152).unwrap_or_default().as_chunks::<2>().0;
    let numbers: Vec<u16> = numbers.iter().map(|pair| u16::from_ne_bytes(*pair)).collect();
    matches!(numbers.as_slice(), [flags, 0, ANSWER] if STATE.contains(flags))
}
