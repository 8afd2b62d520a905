//! What a failed ADD changed in the table, as it was before.

use attach::chained;
use linux::Result;
use linux::nft::{Before, Rule, Socket, Transaction};

use super::layout::Layout;
use crate::Claimant;

/// Plans that the table is as it was, for what an ADD changed there.
///
/// # Errors
/// The kernel's.
pub(crate) fn plan_back(
    socket: &Socket,
    before: &Before,
    claimant: &Claimant,
    out: &mut Transaction,
) -> Result<()> {
    // Rules under conditions are made by nft, from words.
    for target in claimant.plan.targets.iter().filter(|target| !target.conditions.is_empty()) {
        let chain = Layout::new(target.family()).conditional;
        for rule in socket.rules(&chain)? {
            let comment = rule.comment.as_deref().unwrap_or_default();
            if let Some(handle) = rule.handle
                && chained::key_of(comment) == Some(claimant.owner.key())
                && !before.has_rule(&rule)
            {
                out.delete(Rule::at(&chain, handle));
            }
        }
    }
    socket.plan_back(before, out)
}
