//! Filters that send everything that comes in by a link to another one.

use super::{Hook, Qdisc, tcmsg};
use crate::error::Result;
use crate::netlink::{Attr, Attrs, Message, Reply, Socket, field_u8, field_u32};
use crate::uapi::{
    NLM_F_CREATE, NLM_F_EXCL, RTM_DELTFILTER, RTM_GETTFILTER, RTM_NEWTFILTER, TC_ACT_STOLEN,
    TC_H_MIN_INGRESS, TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_EGRESS_REDIR, TCA_KIND, TCA_MATCHALL_ACT,
    TCA_MATCHALL_CLASSID, TCA_MIRRED_PARMS, TCA_OPTIONS, TCA_U32_ACT, TCA_U32_CLASSID, TCA_U32_SEL,
    TCMSG_LEN,
};

/// `ETH_P_ALL` in network byte order, as the lower half of `tcm_info` has it.
const EVERY_PROTOCOL: u16 = 3_u16.to_be();

/// Before all other filters.
const PRIORITY: u16 = 1;

/// What looks at the packets. Either lets all of them pass its test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// `u32 match u32 0 0`
    U32,
    /// `matchall`
    Matchall,
}

impl Classifier {
    fn name(self) -> &'static str {
        match self {
            Classifier::U32 => "u32",
            Classifier::Matchall => "matchall",
        }
    }
}

/// Everything that comes in by a link leaves by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Index of the link it comes in by.
    pub link: u32,
    /// Whether it has a qdisc `clsact` and not `ingress`.
    pub clsact: bool,
    /// Index of the link it leaves by.
    pub to: u32,
}

impl Redirect {
    /// The request, like `tc filter add dev .. parent ffff: protocol all prio 1
    /// u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev ..`.
    #[must_use]
    pub fn add_message(&self, by: Classifier) -> Message {
        let operation =
            format!("redirect link with index {} to {} by {}", self.link, self.to, by.name());
        let info = u32::from(PRIORITY) << 16 | u32::from(EVERY_PROTOCOL);
        let mut message = Message::new(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, operation);
        message
            .put(&tcmsg(self.link, 0, parent(self.clsact), info))
            .attr_str(TCA_KIND, by.name())
            .nest_unflagged(TCA_OPTIONS, |options| match by {
                Classifier::U32 => {
                    options
                        .attr_u32(TCA_U32_CLASSID, 0x1_0001)
                        .nest_unflagged(TCA_U32_ACT, |list| self.action(list))
                        .attr(TCA_U32_SEL, &everything());
                }
                Classifier::Matchall => {
                    options
                        .attr_u32(TCA_MATCHALL_CLASSID, 0x1_0001)
                        .nest_unflagged(TCA_MATCHALL_ACT, |list| self.action(list));
                }
            });
        message
    }

    /// `action mirred egress redirect dev ..`, the first in a list.
    fn action(&self, list: &mut Message) {
        // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction,
        // ifindex.
        let mut parms = [0; 28];
        for (at, field) in [(8, TC_ACT_STOLEN), (20, TCA_EGRESS_REDIR), (24, self.to)] {
            parms[at..at + 4].copy_from_slice(&field.to_ne_bytes());
        }
        list.nest_unflagged(1, |action| {
            action.attr_str(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |options| {
                options.attr(TCA_MIRRED_PARMS, &parms);
            });
        });
    }
}

/// `struct tc_u32_sel` with one key that every packet has: `match u32 0 0`.
fn everything() -> [u8; 32] {
    let mut selector = [0; 32];
    // TC_U32_TERMINAL
    selector[0] = 1;
    selector[2] = 1;
    selector
}

/// The number for a filter of `ingress` is that of the qdisc; one of `clsact` is
/// told from those for what leaves.
fn parent(clsact: bool) -> u32 {
    let handle = Hook::Ingress.handle();
    if clsact { handle | TC_H_MIN_INGRESS } else { handle }
}

/// A filter for what comes in, like a line of `tc filter show dev .. ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Index of its link.
    pub link: u32,
    /// What looks at the packets: `u32`, `bpf`, ..
    pub kind: String,
    /// The lowest comes first.
    pub priority: u16,
    /// Its number; `800::800` is `0x8000_0800`.
    pub handle: u32,
    /// The link that every packet is sent to, if that is what it does first.
    pub redirects_to: Option<u32>,
    /// As the kernel has it, to find it again.
    info: u32,
    parent: u32,
}

impl Filter {
    pub(crate) fn parse(reply: Reply<'_>) -> Option<Filter> {
        if reply.kind != RTM_NEWTFILTER {
            return None;
        }
        let info = field_u32(reply.body, 16)?;
        let attrs = Attrs::after(reply.body, TCMSG_LEN);
        let kind = attrs.find(TCA_KIND)?.str()?.to_owned();
        let options = attrs.find(TCA_OPTIONS);
        let every_protocol = info & 0xffff == u32::from(EVERY_PROTOCOL);
        Some(Filter {
            link: field_u32(reply.body, 4)?,
            priority: u16::try_from(info >> 16).unwrap_or_default(),
            handle: field_u32(reply.body, 8)?,
            redirects_to: options
                .filter(|_| every_protocol)
                .and_then(|options| redirect(&kind, options)),
            info,
            parent: field_u32(reply.body, 12)?,
            kind,
        })
    }

    /// Whether it stands for all of its priority, or is a hash table of u32's,
    /// whose number has no part for a node in it.
    fn is_head(&self) -> bool {
        self.handle == 0 || self.kind == "u32" && self.handle & 0xf_ffff == 0
    }

    /// Deletes it, like `tc filter del dev .. pref .. handle .. u32`.
    ///
    /// # Errors
    ///
    /// The kernel's; that it is gone is none.
    pub fn delete(&self, socket: &Socket) -> Result<()> {
        let operation = format!("delete {} filter of link with index {}", self.kind, self.link);
        let mut message = Message::new(RTM_DELTFILTER, 0, operation);
        message
            .put(&tcmsg(self.link, self.handle, self.parent, self.info))
            .attr_str(TCA_KIND, &self.kind);
        match socket.request(message) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }
}

fn redirect(kind: &str, options: Attr<'_>) -> Option<u32> {
    let list = match kind {
        "u32" => {
            let selector = options.nested().find(TCA_U32_SEL)?.payload;
            // One key, whose mask is nothing.
            if field_u8(selector, 2)? != 1 || field_u32(selector, 16)? != 0 {
                return None;
            }
            options.nested().find(TCA_U32_ACT)?
        }
        "matchall" => options.nested().find(TCA_MATCHALL_ACT)?,
        _ => return None,
    };
    let first = list.nested().next()?.nested();
    if first.find(TCA_ACT_KIND)?.str()? != "mirred" {
        return None;
    }
    let parms = first.find(TCA_ACT_OPTIONS)?.nested().find(TCA_MIRRED_PARMS)?.payload;
    (field_u32(parms, 20)? == TCA_EGRESS_REDIR).then(|| field_u32(parms, 24)).flatten()
}

impl Qdisc {
    /// The filters for what comes in, in their order; none if it is not
    /// [ingress](Qdisc::is_ingress).
    ///
    /// # Errors
    ///
    /// The kernel's; that the link or the qdisc is gone is none.
    pub fn filters(&self, socket: &Socket) -> Result<Vec<Filter>> {
        if !self.is_ingress() {
            return Ok(Vec::new());
        }
        let operation = format!("list filters of link with index {}", self.link);
        let mut message = Message::new(RTM_GETTFILTER, 0, operation);
        message.put(&tcmsg(self.link, 0, parent(self.kind == "clsact"), 0));
        match socket.dump(message, Filter::parse) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            filters => filters.map(|mut list| {
                list.retain(|filter| !filter.is_head());
                list
            }),
        }
    }
}
