//! Hard counts, which do not depend on the load: what strace saw of one call.

use std::collections::BTreeMap;

/// How much a system call adds.
type Counter = fn(&Call<'_>) -> usize;

/// Each counter with what it counts.
const COUNTERS: [(&str, Counter); 8] = [
    ("syscalls", |_| 1),
    ("processes", |call| usize::from(call.name == "execve" && call.text.ends_with("= 0"))),
    ("netlink", |call| call.requests().count()),
    ("netfilter", |call| usize::from(call.protocol == Protocol::Netfilter)),
    ("nft-batches", |call| call.sent(Protocol::Netfilter, NFNL_MSG_BATCH_BEGIN)),
    ("link-deletions", |call| call.sent(Protocol::Route, RTM_DELLINK)),
    ("dumps", |call| {
        let is_dump = |flags: &str| flags.contains("NLM_F_DUMP") || flags.contains("0x300");
        call.requests().filter(|request| is_dump(request.flags)).count()
    }),
    ("fsyncs", |call| {
        usize::from(matches!(call.name, "fsync" | "fdatasync" | "sync_file_range" | "syncfs"))
    }),
];

/// The counters that are shown; all are in the JSON.
pub(crate) const SHOWN: [&str; 5] =
    ["syscalls", "processes", "netlink", "link-deletions", "fsyncs"];

/// How often each thing was done, by the names of `COUNTERS`.
pub(crate) type Counts = BTreeMap<&'static str, usize>;

/// Whether there is a counter of that name.
#[cfg(test)]
pub(crate) fn is_known(name: &str) -> bool {
    COUNTERS.iter().any(|(known, _)| *known == name)
}

/// Counts in the output of `strace -f -qq -yy -v`.
pub(crate) fn count(trace: &str) -> Counts {
    let texts = whole_calls(trace);
    let mut sockets = BTreeMap::new();
    let mut counts: Counts = COUNTERS.iter().map(|(name, _)| (*name, 0)).collect();
    for call in texts.iter().filter_map(|text| Call::parse(text, &mut sockets)) {
        for (name, counter) in COUNTERS {
            *counts.entry(name).or_default() += counter(&call);
        }
    }
    counts
}

/// The calls without their thread's number. Where another thread's call came in
/// between, `12 read(3 <unfinished ...>` and `12 <... read resumed>..` are joined.
fn whole_calls(trace: &str) -> Vec<String> {
    let mut begun = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(begin) = text.strip_suffix("<unfinished ...>") {
            begun.insert(thread, begin);
        } else if let Some((_, end)) =
            text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>"))
        {
            calls.push(format!("{}{end}", begun.remove(thread).unwrap_or_default()));
        } else {
            calls.push(text.to_owned());
        }
    }
    // exit_group, say, never returns.
    calls.extend(begun.into_values().map(str::to_owned));
    calls
}

/// What a netlink socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    None,
    Route,
    Netfilter,
    Other,
}

/// A type of message: its name, and its number, which strace shows where it
/// cannot find out the protocol: of sockets in other network namespaces.
struct Kind(&'static str, u32);

const RTM_DELLINK: Kind = Kind("RTM_DELLINK", 17);
const NFNL_MSG_BATCH_BEGIN: Kind = Kind("NFNL_MSG_BATCH_BEGIN", 16);

/// `sendto(3<NETLINK:[ROUTE:12]>, [{nlmsg_len=40, nlmsg_type=.., nlmsg_flags=..,
/// ..}, ..], 40, ..) = 40`
struct Call<'a> {
    name: &'a str,
    text: &'a str,
    /// Of the socket it is about.
    protocol: Protocol,
}

/// The head of a netlink message.
struct Request<'a> {
    kind: &'a str,
    flags: &'a str,
}

impl<'a> Call<'a> {
    /// `None` of what is no call: a process that ended, a signal.
    fn parse(text: &'a str, sockets: &mut BTreeMap<String, Protocol>) -> Option<Call<'a>> {
        let (name, arguments) = text.split_once('(')?;
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() || !is_name {
            return None;
        }
        if name == "socket" && arguments.starts_with("AF_NETLINK") {
            let protocol = match () {
                () if arguments.contains("NETLINK_ROUTE") => Protocol::Route,
                () if arguments.contains("NETLINK_NETFILTER") => Protocol::Netfilter,
                () => Protocol::Other,
            };
            if let Some(socket) = socket(arguments) {
                sockets.insert(socket.to_owned(), protocol);
            }
            return Some(Call { name, text, protocol });
        }
        let first = arguments.split_once([',', ')']).map_or(arguments, |(first, _)| first);
        let protocol = match socket(first) {
            None => Protocol::None,
            Some(socket) if socket.starts_with("[ROUTE:") => Protocol::Route,
            Some(socket) if socket.starts_with("[NETFILTER:") => Protocol::Netfilter,
            Some(socket) => sockets.get(socket).copied().unwrap_or(Protocol::Other),
        };
        Some(Call { name, text, protocol })
    }

    /// The messages that are sent: one send may hold several.
    fn requests(&self) -> impl Iterator<Item = Request<'a>> {
        let sends = matches!(self.name, "sendto" | "sendmsg" | "sendmmsg" | "write" | "writev");
        let text = if sends && self.protocol != Protocol::None { self.text } else { "" };
        let word = |text: &'a str| text.split([',', '}']).next().unwrap_or_default();
        text.split("nlmsg_type=").skip(1).map(move |rest| Request {
            kind: word(rest),
            flags: rest.split_once("nlmsg_flags=").map_or("", |(_, rest)| word(rest)),
        })
    }

    fn sent(&self, protocol: Protocol, Kind(name, number): Kind) -> usize {
        if self.protocol != protocol {
            return 0;
        }
        let number = format!("{number:#x}");
        let is_meant = |kind: &str| kind == name || kind.split(' ').next() == Some(&number);
        self.requests().filter(|request| is_meant(request.kind)).count()
    }
}

/// `[12]` of `3<NETLINK:[12]>`, which names the socket in all processes.
fn socket(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<NETLINK:")?;
    rest.split_once('>').map(|(socket, _)| socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines are strace 6.1's, shortened.
    const TRACE: &str = r#"
100 execve("/opt/cni/bin/bridge", ["bridge"], 0x7ffd /* 6 vars */) = 0
100 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3<NETLINK:[ROUTE:100]>
100 sendto(3<NETLINK:[ROUTE:100]>, [{nlmsg_len=52, nlmsg_type=RTM_NEWADDR, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK}, {nlmsg_len=44, nlmsg_type=RTM_DELLINK, nlmsg_flags=NLM_F_REQUEST}], 96, 0, NULL, 0) = 96
100 recvfrom(3<NETLINK:[ROUTE:100]>, [{nlmsg_len=36, nlmsg_type=NLMSG_ERROR, msg={nlmsg_type=RTM_DELLINK}}], 4096, 0, NULL, NULL) = 36
101 execve("/opt/cni/bin/host-local", ["host-local"], 0xc000 /* 7 vars */ <unfinished ...>
100 sendmsg(5<NETLINK:[NETFILTER:100]>, {msg_iov=[{iov_base=[{nlmsg_len=20, nlmsg_type=NFNL_MSG_BATCH_BEGIN}, {nlmsg_len=20, nlmsg_type=NFNL_MSG_BATCH_END}]}]}, 0) = 40
101 <... execve resumed>)             = 0
101 execve("/usr/local/bin/nft", ["nft"], 0xc000) = -1 ENOENT (No such file or directory)
101 fsync(4</var/lib/x>)              = 0
101 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE <unfinished ...>
100 read(0, "{}", 4096)               = 2
101 <... socket resumed>)             = 9<NETLINK:[1672814]>
101 sendto(9<NETLINK:[1672814]>, [{nlmsg_len=32, nlmsg_type=0x16 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|0x300, nlmsg_seq=2, nlmsg_pid=0}, "\x00"], 32, 0, NULL, 0) = 32
101 sendto(9<NETLINK:[1672814]>, [{nlmsg_len=32, nlmsg_type=0x11 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK, nlmsg_seq=3, nlmsg_pid=0}, "\x00"], 32, 0, NULL, 0) = 32
101 exit_group(0)                     = ?
101 +++ exited with 0 +++
"#;

    #[test]
    fn a_trace_is_counted() {
        let expected = [
            ("syscalls", 13),
            ("processes", 2),
            ("netlink", 6),
            ("netfilter", 1),
            ("nft-batches", 1),
            ("link-deletions", 2),
            ("dumps", 1),
            ("fsyncs", 1),
        ];
        assert_eq!(count(TRACE), expected.into_iter().collect());
        assert!(SHOWN.iter().all(|name| is_known(name)));
    }
}
