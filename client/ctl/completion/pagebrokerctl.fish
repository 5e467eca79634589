# SPDX-License-Identifier: MIT
# fish completion for pagebrokerctl(1)

set -l commands list status clients top stuck map watch wait fill prefetch heal workingset audit disconnect metrics
set -l named status clients top stuck map watch wait audit metrics

function __pagebrokerctl_names
    set -l bus (string match -- '--bus=*' (commandline -opc))
    pagebrokerctl $bus list 2>/dev/null | awk 'NR > 1 { print $1 }'
end

complete -c pagebrokerctl -f
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a list -d 'the brokers that are running'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a status -d 'how much of the memory is there'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a clients -d 'who is connected'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a top -d 'status and clients, live'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a stuck -d 'who waits for which page'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a map -d 'a picture of the guest memory'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a watch -d 'a line every second'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a wait -d 'until a broker answers'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a fill -d 'the background fill'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a prefetch -d 'fetch a range soon'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a heal -d 'try again what failed'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a workingset -d 'which pages were wanted'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a audit -d 'the broker checks its books'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a disconnect -d 'end a client session'
complete -c pagebrokerctl -n "not __fish_seen_subcommand_from $commands" -a metrics -d 'OpenMetrics text'
complete -c pagebrokerctl -n "__fish_seen_subcommand_from $named" -a '(__pagebrokerctl_names)'
complete -c pagebrokerctl -n '__fish_seen_subcommand_from fill' -a 'on off rate'
complete -c pagebrokerctl -n '__fish_seen_subcommand_from workingset; and not __fish_seen_subcommand_from show record stop replay' \
    -a 'show record stop replay'
complete -c pagebrokerctl -n '__fish_seen_subcommand_from workingset; and __fish_seen_subcommand_from show record stop replay' -F

complete -c pagebrokerctl -s m -l machine -x -a '(__pagebrokerctl_names)' -d 'the name of the VM'
complete -c pagebrokerctl -l bus -x -a 'system session' -d 'which bus'
complete -c pagebrokerctl -l socket -r -F -d 'a broker without a bus'
complete -c pagebrokerctl -l json -d 'one JSON object a line'
complete -c pagebrokerctl -l interval -x -d 'seconds between two looks'
complete -c pagebrokerctl -l timeout -x -d 'seconds to wait'
complete -c pagebrokerctl -l memory -x -d 'one memory, by its own offsets'
complete -c pagebrokerctl -l svg -r -F -d 'a picture'
complete -c pagebrokerctl -l png -r -F -d 'a picture'
complete -c pagebrokerctl -l color -x -a 'auto always never' -d 'colours'
complete -c pagebrokerctl -l listen -r -F -d 'serve metrics by HTTP'
complete -c pagebrokerctl -l for -x -d 'seconds to record'
complete -c pagebrokerctl -l force -d 'replay what fits of another source too'
complete -c pagebrokerctl -l wait -d 'until the replay is done'
complete -c pagebrokerctl -s h -l help -d 'help'
complete -c pagebrokerctl -s v -l version -d 'version'
