# SPDX-License-Identifier: MIT
# bash completion for pagebrokerctl(1)

_pagebrokerctl_names() {
        "${COMP_WORDS[0]}" "$@" list 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_pagebrokerctl() {
        local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' i
        local commands='list status clients top stuck map watch wait fill prefetch heal workingset audit disconnect metrics'
        local options='--machine= --bus= --socket= --json --interval= --timeout= --memory= --svg= --png= --color=
                --listen= --for= --force --wait --help --version'
        local -a bus=()
        COMPREPLY=()

        # Readline splits --option=value at the equals sign.
        if [[ $word == = ]]; then
                word=
        elif [[ $before == = ]]; then
                before=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        for ((i = 1; i < COMP_CWORD; i++)); do
                case ${COMP_WORDS[i]} in
                --bus)
                        [[ ${COMP_WORDS[i + 1]} == = ]] && bus=("--bus=${COMP_WORDS[i + 2]}")
                        ;;
                -m | =)
                        ((i++))
                        ;;
                -*) ;;
                *)
                        command=${command:-${COMP_WORDS[i]}}
                        ;;
                esac
        done
        case $before in
        -m | --machine)
                mapfile -t COMPREPLY < <(compgen -W "$(_pagebrokerctl_names "${bus[@]}")" -- "$word")
                return
                ;;
        --bus)
                mapfile -t COMPREPLY < <(compgen -W 'system session' -- "$word")
                return
                ;;
        --color)
                mapfile -t COMPREPLY < <(compgen -W 'auto always never' -- "$word")
                return
                ;;
        --socket | --svg | --png | --listen)
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
                return
                ;;
        --interval | --timeout | --for | --memory)
                return
                ;;
        esac
        if [[ $word == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
                [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
                return
        fi
        case $command in
        '')
                mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
                ;;
        fill)
                mapfile -t COMPREPLY < <(compgen -W 'on off rate' -- "$word")
                ;;
        workingset)
                if [[ $before == workingset ]]; then
                        mapfile -t COMPREPLY < <(compgen -W 'show record stop replay' -- "$word")
                else
                        compopt -o filenames 2>/dev/null
                        mapfile -t COMPREPLY < <(compgen -f -- "$word")
                fi
                ;;
        status | clients | top | stuck | map | watch | wait | audit | metrics)
                mapfile -t COMPREPLY < <(compgen -W "$(_pagebrokerctl_names "${bus[@]}")" -- "$word")
                ;;
        esac
}

complete -F _pagebrokerctl pagebrokerctl
