# SPDX-License-Identifier: MIT
# bash completion for pagebroker-run(1)

_pagebroker_run() {
        local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
        local options='--socket= --role= --reconnect= --preload= --help --version'
        local i
        COMPREPLY=()

        # What follows the program is the program's.
        for ((i = 1; i < COMP_CWORD; i++)); do
                case ${COMP_WORDS[i]} in
                =)
                        ((i++))
                        ;;
                --)
                        ((i++))
                        break
                        ;;
                -*) ;;
                *)
                        break
                        ;;
                esac
        done
        if ((i < COMP_CWORD)) || [[ $before == -- ]]; then
                if declare -F _command_offset >/dev/null; then
                        _command_offset "$i"
                elif ((i == COMP_CWORD)); then
                        mapfile -t COMPREPLY < <(compgen -c -- "$word")
                else
                        mapfile -t COMPREPLY < <(compgen -f -- "$word")
                fi
                return
        fi
        # Readline splits --option=value at the equals sign.
        if [[ $word == = ]]; then
                word=
        elif [[ $before == = ]]; then
                before=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        case $before in
        --role)
                mapfile -t COMPREPLY < <(compgen -W 'vmm device' -- "$word")
                return
                ;;
        --socket | --preload)
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
                return
                ;;
        --reconnect)
                return
                ;;
        esac
        if [[ $word == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
                [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
                return
        fi
        mapfile -t COMPREPLY < <(compgen -c -- "$word")
}

complete -F _pagebroker_run pagebroker-run
