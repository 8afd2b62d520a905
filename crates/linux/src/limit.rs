//! The limits of the process, like `ulimit`.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Lets a write beyond the limit on the size of files (`RLIMIT_FSIZE`, setrlimit(2))
/// fail instead of ending the process, as `trap '' XFSZ` does; what the process starts
/// inherits that. Nothing is said where it cannot be had: the limit is seldom set.
pub fn survive_file_size() {
    #[expect(unsafe_code, reason = "nix offers handlers of signals as an unsafe function only")]
    // SAFETY: the signal is ignored, so no code runs in a handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}
