# Completion of backstop(1) in bash: the program itself supplies the candidates.

_backstop() {
  # bash also splits words at = and :, which can be part of our words.
  local words=() rest=${COMP_LINE:0:COMP_POINT} i piece
  for ((i = 0; i <= COMP_CWORD; i++)); do
    piece=${COMP_WORDS[i]}
    if [[ $i == 0 || $rest == [[:space:]]* ]]; then
      rest=${rest#"${rest%%[![:space:]]*}"}
      words+=("")
    fi
    piece=${piece:0:${#rest}}
    words[-1]+=$piece
    rest=${rest:${#piece}}
  done

  local current=${words[-1]} value=${words[-1]} before=
  [[ $current == --*=* ]] && value=${current#--*=}
  # What bash considers separate words stays on the line.
  [[ $current == *[=:]* ]] && before=${current%"${current##*[=:]}"}

  COMPREPLY=()
  local line
  while IFS= read -r line; do
    case $line in
      :folders)
        compopt -o filenames 2>/dev/null
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$value")
        ;;
      :files*)
        compopt -o filenames 2>/dev/null
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(
          [[ $line == ":files "* ]] || { compgen -f -- "$value"; exit; }
          compgen -d -- "$value"
          compgen -f -X "!*${line#:files }" -- "$value"
        )
        ;;
      *)
        line=${line%%$'\t'*}
        [[ $line == *= ]] && compopt -o nospace 2>/dev/null
        COMPREPLY+=("${line#"$before"}")
        ;;
    esac
  done < <("${words[0]}" --complete "${words[@]:1}" 2>/dev/null)
}

complete -F _backstop backstop
