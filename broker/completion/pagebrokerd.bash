# SPDX-License-Identifier: MIT
# bash completion for pagebrokerd(8)

_pagebrokerd() {
        local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
        local options='--memory= --region= --memory-headroom= --collapse= --huge= --fill= --fill-rate= --fill-share=
                --fault-around=
                --read-around= --gigantic-faults= --source-timeout= --source-retries= --source-deadline=
                --heal-interval= --working-set-record= --working-set-replay= --on-error= --io= --spin= --socket=
                --allow= --client-limit= --client-requests= --client-bytes= --client-descriptors=
                --release-timeout= --discard-timeout= --name= --user= --bus= --seccomp= --quiet --verbose
                --config= --check --help --version'
        COMPREPLY=()

        # Readline splits --option=value at the equals sign.
        if [[ $word == = ]]; then
                word=
        elif [[ $before == = ]]; then
                before=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        case $before in
        --collapse | --fill | --gigantic-faults | --seccomp)
                mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$word")
                return
                ;;
        --huge)
                mapfile -t COMPREPLY < <(compgen -W '2M 1G' -- "$word")
                return
                ;;
        --fault-around)
                mapfile -t COMPREPLY < <(compgen -W '4K 8K 16K 32K 64K 128K 256K' -- "$word")
                return
                ;;
        --on-error)
                mapfile -t COMPREPLY < <(compgen -W 'wait poison stop' -- "$word")
                return
                ;;
        --io)
                mapfile -t COMPREPLY < <(compgen -W 'auto uring threads' -- "$word")
                return
                ;;
        --bus)
                mapfile -t COMPREPLY < <(compgen -W 'system session none' -- "$word")
                return
                ;;
        --working-set-record | --working-set-replay | --socket | --config)
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
                return
                ;;
        --user)
                mapfile -t COMPREPLY < <(compgen -u -- "$word")
                return
                ;;
        --memory | --region | --memory-headroom | --fill-rate | --fill-share | --read-around | --source-timeout | \
                --source-retries | --source-deadline | --heal-interval | --spin | --allow | --client-limit | \
                --client-requests | --client-bytes | --client-descriptors | --release-timeout | \
                --discard-timeout | --name)
                return
                ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}

complete -F _pagebrokerd pagebrokerd
