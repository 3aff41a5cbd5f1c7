# Completion of backstop(1) in fish: the program itself supplies the candidates.

function __backstop_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l value (string replace -r -- '^--[^=]*=' '' $current)
    set -l before (string sub -l (math (string length -- $current) - (string length -- $value)) -- $current)
    for line in ($words[1] --complete $words[2..-1] $current 2>/dev/null)
        switch $line
            case ':folders'
                printf '%s\n' $before(__fish_complete_directories $value '')
            case ':files'
                printf '%s\n' $before(__fish_complete_path $value '')
            case ':files *'
                set -l ending (string escape --style=regex -- (string replace ':files ' '' -- $line))
                printf '%s\n' $before(__fish_complete_path $value '' |
                    string match -r -- "^[^\t]*(?:/|$ending)(?:\t.*)?\$")
            case '*'
                printf '%s\n' $line
        end
    end
end

complete -c backstop -f -a '(__backstop_complete)'
