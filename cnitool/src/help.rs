//! What the commands are and do, in words.

/// A command, as something to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Add,
    Check,
    Del,
    Restore,
    Gc,
    Status,
    List,
    Leases,
    Networks,
    Validate,
    Version,
    Completion,
    Help,
}

impl Topic {
    /// In the order of `--help`.
    pub(crate) const ALL: &'static [Topic] = &[
        Topic::Add,
        Topic::Check,
        Topic::Del,
        Topic::Restore,
        Topic::Gc,
        Topic::Status,
        Topic::List,
        Topic::Leases,
        Topic::Networks,
        Topic::Validate,
        Topic::Version,
        Topic::Completion,
        Topic::Help,
    ];

    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Topic::Add => "add",
            Topic::Check => "check",
            Topic::Del => "del",
            Topic::Restore => "restore",
            Topic::Gc => "gc",
            Topic::Status => "status",
            Topic::List => "list",
            Topic::Leases => "leases",
            Topic::Networks => "networks",
            Topic::Validate => "validate",
            Topic::Version => "version",
            Topic::Completion => "completion",
            Topic::Help => "help",
        }
    }

    /// One line about it.
    pub(crate) fn summary(self) -> &'static str {
        match self {
            Topic::Add => "attach a network namespace to a network, print the result",
            Topic::Check => "verify that an attachment is as add made it",
            Topic::Del => "detach; succeeds when there is nothing to detach",
            Topic::Restore => "make again what is missing of attachments, such as rules",
            Topic::Gc => "remove what attachments left that exist no longer",
            Topic::Status => "ask whether an add could be served now",
            Topic::List => "show who is attached to what",
            Topic::Leases => "show which addresses are leased, free those of before a reboot",
            Topic::Networks => "show the networks that are configured",
            Topic::Validate => "look for mistakes in network configurations",
            Topic::Version => "show which versions of the specification plugins speak",
            Topic::Completion => "print a script that completes commands in a shell",
            Topic::Help => "explain a command",
        }
    }
}

/// How a command is called.
pub(crate) fn usage(topic: Topic) -> &'static str {
    match topic {
        Topic::Add => "cnitool add [-i IFNAME] <network> <netns>",
        Topic::Check => "cnitool check [-i IFNAME] <network> <netns>",
        Topic::Del => "cnitool del [-i IFNAME] <network> <netns>",
        Topic::Restore => "cnitool restore [--dry-run] [--json] [<network>]",
        Topic::Gc => {
            "cnitool gc <network> {--keep NETNS[:IFNAME].. | --keep-existing | --all} [--dry-run]"
        }
        Topic::Status => "cnitool status <network>",
        Topic::List => "cnitool list [--json] [<network>]",
        Topic::Leases => {
            "cnitool leases [--stale | --reconcile [--dry-run]] [--json] [--data-dir DIR].. [<network>]"
        }
        Topic::Networks => "cnitool networks",
        Topic::Validate => "cnitool validate [<network> | <file>]",
        Topic::Version => "cnitool version [<plugin>..]",
        Topic::Completion => "cnitool completion bash|zsh|fish",
        Topic::Help => "cnitool help [<command>]",
    }
}

/// The page about a command, or about all of it.
pub(crate) fn text(topic: Option<Topic>) -> String {
    let Some(topic) = topic else { return overview() };
    format!(
        "cnitool {}: {}\n\nUsage: {}\n\n{}",
        topic.name(),
        topic.summary(),
        usage(topic),
        details(topic)
    )
}

fn overview() -> String {
    let mut commands = String::new();
    for topic in Topic::ALL {
        commands.push_str(&format!("  {:<12}{}\n", topic.name(), topic.summary()));
    }
    format!(
        "cnitool: attach network namespaces to CNI networks

Usage: cnitool <command> [options] <network> <netns>

Commands:
{commands}
Options, anywhere on the line:
  -i, --ifname NAME   the interface in the namespace (default: CNI_IFNAME, or eth0)
  --cache-dir DIR     where results are kept (default: CNI_CACHE_DIR, or /var/lib/cni)
  -h, --help          this page, or that of a command
  -V, --version       the version of cnitool

Environment:
  NETCONFPATH    the folder of network configurations (default /etc/cni/net.d)
  CNI_PATH       folders of plugins, joined by ':' (default /opt/cni/bin)
  CNI_ARGS       arguments for plugins: KEY=VALUE;KEY2=VALUE2
  CAP_ARGS       values of capabilities, a JSON object: {{\"ips\": [\"10.1.0.9/24\"]}}
  CNI_IFNAME, CNI_CACHE_DIR   as the options

Example: a namespace on a bridge, in three commands
  echo '{{\"cniVersion\": \"1.1.0\", \"name\": \"mynet\", \"plugins\": [{{
      \"type\": \"bridge\", \"isGateway\": true,
      \"ipam\": {{\"type\": \"host-local\", \"subnet\": \"10.1.0.0/24\"}}}}]}}' \\
    > /etc/cni/net.d/10-mynet.conflist
  ip netns add blue
  cnitool add mynet /run/netns/blue

A command exits with 0, or with 1 and one line on stderr.
"
    )
}

fn details(topic: Topic) -> &'static str {
    match topic {
        Topic::Add => {
            "\
Executes ADD of the plugins of <network> in order and prints the last result.
<netns> is the path of a network namespace: /run/netns/NAME, /proc/PID/ns/net.
The container ID is made from the path, so later commands need the same path.

When a plugin fails, the others are told to DEL what they did, unless the
namespace was attached before: then nothing it holds is taken away.

Examples:
  cnitool add mynet /run/netns/blue
  cnitool add -i eth1 backend /run/netns/blue
  CAP_ARGS='{\"portMappings\": [{\"hostPort\": 8080, \"containerPort\": 80,
    \"protocol\": \"tcp\"}]}' cnitool add mynet /run/netns/blue
  CNI_ARGS='IgnoreUnknown=1;IP=10.1.0.9' cnitool add mynet /run/netns/blue
"
        }
        Topic::Check => {
            "\
Executes CHECK of the plugins with the result that add kept, and with its
CNI_ARGS and CAP_ARGS unless others are given. Lists before version 0.4.0 have
no CHECK.

Example:
  cnitool check mynet /run/netns/blue
"
        }
        Topic::Del => {
            "\
Executes DEL of the plugins in reverse order. <netns> need not exist any more.
CNI_ARGS and CAP_ARGS are those of the add unless others are given.
When the network's configuration is gone or broken, the one that add kept is
used.

Example:
  cnitool del mynet /run/netns/blue
"
        }
        Topic::Restore => {
            "\
Executes CHECK of every plugin of the attachments in the cache, and has those
that miss something make it again: packet filter rules after nft flush ruleset
or a reload of firewalld, addresses and routes that somebody removed. What is
there is not touched, and no connection ends. A link that is gone needs del and
add. Plugins of others cannot do it, and say so. Lists before version 0.4.0 are
asked at that version.

  -n, --dry-run    only show what is missing

Attachments whose namespace is gone are left to gc. One of which the cache does
not tell the namespace is unknown, which is a failure.

Examples:
  cnitool restore --dry-run
  nft flush ruleset; cnitool restore
"
        }
        Topic::Gc => {
            "\
Detaches what is attached to <network> and not to be kept, then lets each
plugin remove what it has left of others (version 1.1.0). Say what to keep:

  --keep NETNS[:IFNAME]   what cnitool attached in this namespace, by whatever
                          path: all of it, or one interface; may be repeated
  --keep-existing         every attachment whose network namespace still exists,
                          or is not known, whichever runtime made it
  --all                   keep nothing: delete every attachment of the network
  -n, --dry-run           only show what would be detached

Nothing is done when the cache cannot tell what --keep-existing should keep.

Examples:
  cnitool gc mynet --keep-existing --dry-run
  cnitool gc mynet --keep /run/netns/blue --keep /run/netns/red:eth1
"
        }
        Topic::Status => {
            "\
Executes STATUS of the plugins in order (version 1.1.0). No output means ready.

Example:
  cnitool status mynet && cnitool add mynet /run/netns/blue
"
        }
        Topic::List => {
            "\
Shows the attachments in the cache, those of other runtimes too: network,
container, interface, addresses, and whether the namespace exists or is gone;
unknown where the cache does not tell which it is.

Example:
  cnitool list mynet
"
        }
        Topic::Leases => {
            "\
Shows the addresses that host-local has leased on this host: network, address,
container, interface, when, and whether the lease is

  in use    the namespace of its attachment exists
  gone      it does not exist any more: cnitool gc <network> --keep-existing
  stale     made before the machine was started last, and no namespace of its
            attachment exists: nobody can be using the address
  unknown   made since then, and no attachment of it is in the cache; or the
            cache does not tell the namespace of its attachment
  empty     a file without content, which is nobody's: the next add takes it

  --stale          only those that are stale
  --reconcile      free those that are stale, and show which they were
  -n, --dry-run    with --reconcile: only show which would be freed
  --data-dir DIR   look there, not where the configurations say; may be repeated

Which namespaces exist is known from the cache: give --cache-dir when the
runtime's is elsewhere. No network is touched of whose cache a file cannot be
read.

Examples:
  cnitool leases mynet
  cnitool leases --reconcile --dry-run
"
        }
        Topic::Networks => {
            "\
One line each: name, version, plugins, file. What cannot be read is told on
stderr.
"
        }
        Topic::Validate => {
            "\
Reads a network, a file (a name with a '/' in it), or all that are configured,
and tells what would fail: broken files, versions nobody speaks, missing
plugins, keys that do not do what they seem to. Each plugin is asked for its
VERSION, nothing else. Exits with 1 when there is an error; warnings are fine.

Examples:
  cnitool validate mynet
  cnitool validate ./10-mynet.conflist
"
        }
        Topic::Version => {
            "\
Asks the plugins named, or all in CNI_PATH, for their VERSION.

Example:
  cnitool version bridge host-local
"
        }
        Topic::Completion => {
            "\
Examples:
  cnitool completion bash > /etc/bash_completion.d/cnitool
  cnitool completion zsh > /usr/local/share/zsh/site-functions/_cnitool
  cnitool completion fish > /etc/fish/completions/cnitool.fish
"
        }
        Topic::Help => {
            "\
Example:
  cnitool help gc
"
        }
    }
}
