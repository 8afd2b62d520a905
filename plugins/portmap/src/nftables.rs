//! Ports mapped by nf_tables, spoken over netlink:
//!
//! ```text
//! table ip cni_hostport {                       # and the same in table ip6
//!     map any_address {                         # a port of every address of the host
//!         type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "<owner>" : 10.1.0.2 . 80 }
//!     }
//!     map one_address { .. }                    # and of one: address . protocol . port
//!     set waiting { .. }                        # while one container wants a port twice
//!     set containers {                          # where ports lead
//!         elements = { 10.1.0.2 comment "<owner>, ports: 1, ns: 4026532294/71 /run/netns/x" }
//!     }
//!     chain mapped_prerouting {                 # and mapped_output
//!         type nat hook prerouting priority -90; policy accept;
//!         fib daddr type local jump mapped
//!     }
//!     chain mapped_targets {
//!         dnat ip to ip daddr . meta l4proto . th dport map @one_address
//!         dnat ip to meta l4proto . th dport map @any_address
//!     }
//!     ..
//! }
//! ```
//!
//! An attachment is a handful of elements, however many others there are: to
//! find, add or remove one takes the same time among ten thousand, and so does
//! a packet; CHECK and a second ADD list them all, to find what is too much. A key
//! exists once, so that a port has one owner.

mod aside;
mod back;
mod claim;
mod layout;
mod release;
mod waiting;

use attach::backend::FAMILIES;
use layout::Layout;
use linux::Family;
use linux::nft::{Chain, Transaction};

pub(crate) use aside::{conflict, stand_aside};
pub(crate) use back::plan_back;
pub(crate) use claim::{add, check, has_more};
pub(crate) use release::{Leaving, plan};

/// What guards 127.0.0.0/8.
pub(crate) fn guard() -> Chain {
    Layout::new(Family::V4).guard
}

/// Adds what all attachments share, but for the rules: those are written anew.
pub(crate) fn shared() -> Transaction {
    let mut shared = Transaction::new();
    for family in FAMILIES {
        Layout::new(family).add_objects(family == Family::V4, &mut shared);
    }
    shared
}
