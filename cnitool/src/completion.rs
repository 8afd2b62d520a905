//! Scripts that complete the command line. Networks are completed by asking
//! `cnitool networks`, namespaces from /run/netns and other paths.

use crate::arguments::Shell;
use crate::help::Topic;

/// The script for a shell.
pub(crate) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

fn names() -> String {
    Topic::ALL.iter().map(|topic| topic.name()).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let script = r#"# bash completion for cnitool; from: cnitool completion bash
_cnitool() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command= words=0 i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -i|--ifname|--cache-dir|--data-dir|--keep) ((i++)) ;;
            -*) ;;
            *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else ((words++)); fi ;;
        esac
    done
    local networks='cnitool networks 2>/dev/null | cut -d" " -f1'
    local namespaces='printf "%s\n" /run/netns/*'
    case $before in
        -i|--ifname) COMPREPLY=($(compgen -W "eth0 eth1 net1" -- "$word")); return ;;
        --cache-dir|--data-dir) COMPREPLY=($(compgen -d -- "$word")); return ;;
        --keep) COMPREPLY=($(compgen -W "$(eval "$namespaces")" -- "$word") $(compgen -f -- "$word")); return ;;
    esac
    if [[ $word == -* ]]; then
        local options="-i --ifname --cache-dir -h --help -V --version"
        case $command in
            gc) options+=" --keep --keep-existing --all -n --dry-run" ;;
            list) options+=" --json" ;;
            restore) options+=" -n --dry-run --json" ;;
            leases) options+=" --stale --reconcile -n --dry-run --json --data-dir" ;;
        esac
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    elif [[ -z $command ]]; then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
    else
        case $command.$words in
            add.0|check.0|del.0|gc.0|status.0|list.0|leases.0|restore.0)
                COMPREPLY=($(compgen -W "$(eval "$networks")" -- "$word")) ;;
            validate.0)
                COMPREPLY=($(compgen -W "$(eval "$networks")" -- "$word") $(compgen -f -- "$word")) ;;
            add.1|check.1|del.1)
                COMPREPLY=($(compgen -W "$(eval "$namespaces")" -- "$word") $(compgen -f -- "$word")) ;;
            completion.0) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")) ;;
            help.0) COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word")) ;;
        esac
    fi
}
complete -F _cnitool cnitool
"#;
    script.replace("@COMMANDS@", &names())
}

fn zsh() -> String {
    let script = r#"#compdef cnitool
# zsh completion for cnitool; from: cnitool completion zsh
_cnitool() {
    local -a commands networks options
    commands=(
@COMMANDS@    )
    networks=(${(f)"$(cnitool networks 2>/dev/null | cut -d' ' -f1)"})
    options=(
        '(-i --ifname)'{-i,--ifname}'[interface in the namespace]:interface:'
        '--cache-dir[where results are kept]:folder:_files -/'
        '(- *)'{-h,--help}'[explain]'
    )
    local command=${words[(r)(@NAMES@)]}
    case $command in
        gc) options+=(
                '*--keep[attachment to keep]:namespace:_files -W /run/netns'
                '--keep-existing[keep those whose namespace exists]'
                '--all[keep nothing]'
                '(-n --dry-run)'{-n,--dry-run}'[only show]') ;;
        list) options+=('--json[as JSON]') ;;
        restore) options+=('(-n --dry-run)'{-n,--dry-run}'[only show]' '--json[as JSON]') ;;
        leases) options+=(
                '--stale[only those of before the last boot]'
                '--reconcile[free them]'
                '(-n --dry-run)'{-n,--dry-run}'[only show]'
                '--json[as JSON]'
                '*--data-dir[where leases are]:folder:_files -/') ;;
    esac
    case $command in
        add|check|del) _arguments $options '1:command:' '2:network:($networks)' '3:namespace:_files' ;;
        gc|status|list|leases|restore) _arguments $options '1:command:' '2:network:($networks)' ;;
        validate) _arguments $options '1:command:' '2:network:_alternative "networks:network:($networks)" "files:file:_files"' ;;
        completion) _arguments $options '1:command:' '2:shell:(bash zsh fish)' ;;
        help) _arguments $options '1:command:' '2:command:(@WORDS@)' ;;
        *) _arguments $options '1:command:{_describe command commands}' ;;
    esac
}
_cnitool "$@"
"#;
    let mut commands = String::new();
    for topic in Topic::ALL {
        commands.push_str(&format!("        '{}:{}'\n", topic.name(), topic.summary()));
    }
    script
        .replace("@COMMANDS@", &commands)
        .replace("@NAMES@", &names().replace(' ', "|"))
        .replace("@WORDS@", &names())
}

fn fish() -> String {
    let mut script = String::from(
        r#"# fish completion for cnitool; from: cnitool completion fish
set -l commands @COMMANDS@
complete -c cnitool -f
complete -c cnitool -s i -l ifname -x -d 'interface in the namespace'
complete -c cnitool -l cache-dir -x -a '(__fish_complete_directories)' -d 'where results are kept'
complete -c cnitool -s h -l help -d 'explain'
complete -c cnitool -n '__fish_seen_subcommand_from gc' -l keep -x -a '/run/netns/*' -d 'attachment to keep'
complete -c cnitool -n '__fish_seen_subcommand_from gc' -l keep-existing -d 'keep those whose namespace exists'
complete -c cnitool -n '__fish_seen_subcommand_from gc' -l all -d 'keep nothing'
complete -c cnitool -n '__fish_seen_subcommand_from gc' -s n -l dry-run -d 'only show'
complete -c cnitool -n '__fish_seen_subcommand_from list leases restore' -l json -d 'as JSON'
complete -c cnitool -n '__fish_seen_subcommand_from leases' -l stale -d 'only those of before the last boot'
complete -c cnitool -n '__fish_seen_subcommand_from leases' -l reconcile -d 'free them'
complete -c cnitool -n '__fish_seen_subcommand_from leases restore' -s n -l dry-run -d 'only show'
complete -c cnitool -n '__fish_seen_subcommand_from leases' -l data-dir -x -a '(__fish_complete_directories)' -d 'where leases are'
complete -c cnitool -n '__fish_seen_subcommand_from add check del gc status list leases restore validate' -a "(cnitool networks 2>/dev/null | string split -f1 ' ')" -d network
complete -c cnitool -n '__fish_seen_subcommand_from add check del' -a '/run/netns/*' -d namespace
complete -c cnitool -n '__fish_seen_subcommand_from validate' -F
complete -c cnitool -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'
complete -c cnitool -n '__fish_seen_subcommand_from help' -a "$commands"
"#,
    );
    for topic in Topic::ALL {
        script.push_str(&format!(
            "complete -c cnitool -n \"not __fish_seen_subcommand_from $commands\" -a {} -d '{}'\n",
            topic.name(),
            topic.summary()
        ));
    }
    script.replace("@COMMANDS@", &names())
}
