# SPDX-License-Identifier: MIT
# fish completion for pagebroker-checksum(1)

complete -c pagebroker-checksum -s o -l output -r -F -d 'the file of checksums'
complete -c pagebroker-checksum -l block-size -x -a '4K 8K 16K 32K 64K 128K 256K' -d 'how much one checksum covers'
complete -c pagebroker-checksum -l check -d 'compare instead of writing'
complete -c pagebroker-checksum -l progress -d 'say how far it is'
complete -c pagebroker-checksum -s q -l quiet -d 'never say how far it is'
complete -c pagebroker-checksum -s h -l help -d 'help'
complete -c pagebroker-checksum -l version -d 'version'
