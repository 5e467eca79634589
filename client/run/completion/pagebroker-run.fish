# SPDX-License-Identifier: MIT
# fish completion for pagebroker-run(1)

# What follows the program is the program's.
function __pagebroker_run_has_program
    for word in (commandline -opc)[2..]
        if test "$word" = -- ; or not string match -q -- '-*' "$word"
            return 0
        end
    end
    return 1
end

complete -c pagebroker-run -f -a '(__fish_complete_subcommand)'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l socket -r -F -d 'the socket of the broker'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l role -x -a 'vmm device' -d 'what the program is to the broker'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l reconnect -x -d 'seconds that a mapping waits for a broker'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l preload -r -F -d 'the preload library'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l help -d 'help'
complete -c pagebroker-run -n "not __pagebroker_run_has_program" -l version -d 'version'
