//! What a plugin is.

use crate::{AttachmentId, Network, Request, Result, Success, Version};
use std::net::IpAddr;

/// Called by an address plugin for each attachment that is gone for certain, without
/// a DEL, before it gives the address away: see [`Network::forget`].
pub type Forget<'a> = &'a dyn Fn(&AttachmentId, IpAddr) -> Result<()>;

/// One CNI plugin. No verb of the specification has a default body: a plugin
/// that has nothing to do for a verb says so where it is read.
pub trait Plugin: Sync {
    /// The CNI type, which is also the name of the executable: `bridge`.
    fn name(&self) -> &'static str;

    /// The versions of the specification it speaks, oldest first.
    fn versions(&self) -> &'static [Version];

    /// Attaches the container to the network. When it fails, everything it
    /// did has been undone.
    fn add(&self, request: &Request) -> Result<Success>;

    /// Verifies that what ADD promised is still so, changing nothing.
    fn check(&self, request: &Request) -> Result<()>;

    /// Makes again what ADD made and is missing now: addresses, routes, rules, not
    /// the link. What is there stays as it is, so that no connection ends, and to
    /// call it twice is to call it once. The request is that of CHECK.
    ///
    /// A verb of our own, which no specification has. Most plugins have nothing
    /// but what lives and dies with a link: of them CHECK tells whether it is
    /// there, and DEL and ADD make it anew.
    fn restore(&self, request: &Request) -> Result<()> {
        self.check(request)
    }

    /// Detaches. Succeeds when there is nothing (left) to detach, and goes on
    /// after an error with what can still be removed.
    fn del(&self, request: &Request) -> Result<()>;

    /// Removes what attachments left behind that are not in
    /// [`Network::valid_attachments`].
    fn gc(&self, network: &Network) -> Result<()>;

    /// Fails (code 50) when an ADD could not be served now.
    fn status(&self, network: &Network) -> Result<()>;

    /// ADD of an address plugin for another one in this process. Of those that take
    /// over what the dead have: all others forget nobody.
    fn lease(&self, request: &Request, _forget: Forget) -> Result<Success> {
        self.add(request)
    }

    /// Removes the rules on the host that `dead` has for `address`, whose DEL never
    /// came and whose namespace has ended, for another attachment is about to get the
    /// address and with it whatever leads there. What `dead` has for another address
    /// stays: it may have come back. The thread is in the host's namespace.
    ///
    /// Of plugins whose rules go by addresses: most leave nothing of the kind. Who may
    /// not change the host's rules has made none, and succeeds.
    fn forget(&self, _network: &Network, _dead: &AttachmentId, _address: IpAddr) -> Result<()> {
        Ok(())
    }

    /// The same of all attachments that a GC is about to take the addresses of.
    fn forget_invalid(&self, _network: &Network) -> Result<()> {
        Ok(())
    }
}
