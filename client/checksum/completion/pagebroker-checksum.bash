# SPDX-License-Identifier: MIT
# bash completion for pagebroker-checksum(1)

_pagebroker_checksum() {
        local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
        local options='--output= --block-size= --check --progress --quiet --help --version'
        COMPREPLY=()

        # Readline splits --option=value at the equals sign.
        if [[ $word == = ]]; then
                word=
        elif [[ $before == = ]]; then
                before=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        case $before in
        --block-size)
                mapfile -t COMPREPLY < <(compgen -W '4K 8K 16K 32K 64K 128K 256K' -- "$word")
                return
                ;;
        --output | -o)
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
                return
                ;;
        esac
        if [[ $word == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
                [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
                return
        fi
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
}

complete -F _pagebroker_checksum pagebroker-checksum
