//! What the kernel's refusal of a batch means to a reader.

use nix::libc;

use crate::error::{Error, ErrorKind};
use crate::nft::chain::Table;
use crate::nft::transaction::{Object, Operation, Transaction, Verb};

const NEEDS_PRIVILEGE: &str = "CAP_NET_ADMIN is needed";
const OWNED: &str = "another process owns the table (flags owner)";

/// The kernel's refusal of any change of a table with an owner
/// (`nft_table_lookup`, net/netfilter/nf_tables_api.c at v6.18), before it was
/// asked for one.
pub(super) fn owned(table: &Table) -> Error {
    Error::from_errno(format!("change table {table}"), libc::EPERM).hint(OWNED)
}

/// nfnetlink answers `EINVAL` where nobody handles a subsystem
/// (`nfnetlink_rcv_msg`, net/netfilter/nfnetlink.c at v6.18).
pub(super) fn unsupported_subsystem(error: Error) -> Error {
    match error.errno() {
        Some(libc::EINVAL) => {
            error.of_kind(ErrorKind::Unsupported).hint("the kernel has no nf_tables")
        }
        _ => error,
    }
}

/// Whether a `destroy` was refused, and for being one: a kernel without it
/// answers `EINVAL` as to any number it does not know.
pub(super) fn is_unknown_destroy(error: &Error, transaction: &Transaction) -> bool {
    error.errno() == Some(libc::EINVAL) && is_at_destroy(error, transaction)
}

/// Whether a `destroy` was refused because not even the table or set is there
/// that the object would be in; the kernel forgives only the last step.
pub(super) fn is_missing_owner(error: &Error, transaction: &Transaction) -> bool {
    error.is_not_found() && is_at_destroy(error, transaction)
}

fn is_at_destroy(error: &Error, transaction: &Transaction) -> bool {
    let refused = error.batch_index().and_then(|index| transaction.operations().get(index));
    refused.is_some_and(|operation| operation.verb == Verb::Destroy)
}

/// Puts the operation, its position among all and a hint into an error.
pub(super) fn explain(error: Error, owner: Option<usize>, operations: &[Operation]) -> Error {
    let Some((index, operation)) = owner.and_then(|at| Some((at, operations.get(at)?))) else {
        let error = error.operation(format!("apply {} nftables operations", operations.len()));
        return match error.errno() {
            Some(libc::EPERM) => error.hint(NEEDS_PRIVILEGE),
            Some(libc::EINVAL) => unsupported_subsystem(error),
            Some(libc::EMSGSIZE) => error.hint("net.core.wmem_max is too small for it"),
            _ => error,
        };
    };
    let hint = hint(&error, operation);
    let error = error.operation(shortened(operation)).at_batch_index(index);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn hint(error: &Error, operation: &Operation) -> Option<&'static str> {
    let makes = matches!(
        operation.verb,
        Verb::Add | Verb::Create | Verb::Insert | Verb::Replace | Verb::Flush
    );
    match (&operation.object, error.kind()) {
        (Object::Rule(_), ErrorKind::NotFound) if makes => {
            Some("its chain, or a chain or set it names, does not exist")
        }
        (Object::Chain(_) | Object::Set(_), ErrorKind::NotFound) if makes => {
            Some("its table does not exist")
        }
        (Object::Elements(_), ErrorKind::NotFound) if makes => Some("the set does not exist"),
        (Object::Elements(_), ErrorKind::Exists) => {
            Some("one of the keys is there with other data")
        }
        (Object::Chain(_) | Object::Set(_), ErrorKind::Busy) => Some("rules still use it"),
        (Object::Rule(_), ErrorKind::Unsupported) => {
            Some("the hook does not allow it, or the kernel lacks a part of it")
        }
        // Without the privilege the batch as a whole is refused.
        (_, ErrorKind::Permission) => Some(OWNED),
        _ => None,
    }
}

/// The text of an operation, cut where it is a long list of elements.
pub(super) fn shortened(operation: &Operation) -> String {
    const LONGEST: usize = 300;
    let mut text = operation.to_string();
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push_str("..");
    }
    text
}
