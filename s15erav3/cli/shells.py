"""Completion scripts for bash, zsh and fish: verbs, groups, choices and settings of this program.

Install with ``eval "$(s15erav3 --completion bash)"``, the same for zsh, or ``s15erav3 --completion fish | source``.
Each script calls ``s15erav3 --completion words`` with the line up to the cursor in ``COMP_LINE``. It reads one word
per line, followed by a tab and a description. If there is no word, the shell completes file names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from io import StringIO

from s15erav3.errors import UserError, nearest

FLAG = "--completion"
WORDS = "words"

BASH = r"""
_s15erav3() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" last found before=""
    last="${line##* }"
    # Where bash takes = for the end of a word, it wants only what stands after it.
    [[ $COMP_WORDBREAKS == *=* && $last == *=* ]] && before="${last%"${last##*=}"}"
    COMPREPLY=()
    for found in $(COMP_LINE="$line" "$1" --completion words 2>/dev/null); do
        found="${found%%$'\t'*}"
        [[ $found == "$last"* ]] || continue
        [[ $found == *[=./] ]] || found+=" "
        COMPREPLY+=("${found#"$before"}")
    done
}
complete -o nospace -o default -F _s15erav3 s15erav3
"""

ZSH = r"""
_s15erav3() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" found
    local -a whole begun
    for found in "${(@f)$(COMP_LINE=$line $words[1] --completion words 2>/dev/null)}"; do
        found="${found%%$'\t'*}"
        [[ -z $found ]] && continue
        if [[ $found == *[=./] ]]; then begun+=("$found"); else whole+=("$found"); fi
    done
    if (( $#whole + $#begun )); then
        (( $#begun )) && compadd -S '' -a begun
        (( $#whole )) && compadd -a whole
        return 0
    fi
    compset -P '*='
    _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _s15erav3 s15erav3
"""

FISH = r"""
function __s15erav3_words
    set -lx COMP_LINE (commandline -cp)
    set -l program (commandline -opc)
    set -l found ($program[1] --completion words 2>/dev/null)
    if string length -q -- $found
        printf '%s\n' $found
    else
        set -l before (string replace -r '[^=]*$' '' -- (commandline -ct))
        for file in (__fish_complete_path (string replace -r '^.*=' '' -- (commandline -ct)))
            printf '%s\n' "$before$file"
        end
    end
end
complete -c s15erav3 -f -a '(__s15erav3_words)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str) -> str:
    """The completion script for a shell.

    Raises:
        UserError: the shell is not supported.
    """
    if shell not in SCRIPTS:
        raise UserError(f"{FLAG} {shell} is not a supported shell; {nearest(shell, SCRIPTS)}")
    return SCRIPTS[shell].lstrip()


def words(verbs: Mapping[str, str]) -> int:
    """Print the possible completions of ``COMP_LINE``, the text typed up to the cursor.

    Args:
        verbs: description of each verb.

    """
    from s15erav3.cli import completion, help
    from s15erav3.cli.flags import flags, split

    line = os.environ.get("COMP_LINE", "")
    _, *before = line.split() or [""]
    last = "" if line.endswith(" ") or not before else before.pop()
    if not before:
        told = {**verbs, "--help": "what this program does", "--version": "", FLAG: "for the shell's Tab key"}
        found = [f"{word}\t{does}" for word, does in told.items() if word.startswith(last)]
        print("\n".join(word for word in found if last.startswith("-") or not word.startswith("-")))
    elif before == [FLAG]:
        print("\n".join(shell for shell in SCRIPTS if shell.startswith(last)))
    elif last.startswith("-"):
        print("\n".join(flag for flag in flags() if flag.startswith(last)))
    elif arguments := completion.asked(["-sc", "query=fish"], verbs):
        with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
            help.answer(arguments[0], split(arguments[1:]))
        for word in printed.getvalue().splitlines():
            # Hydra gives a group that has both choices and groups of its own, such as balancing, without an ending.
            bare = word and "=" not in word and word[-1] not in "./"
            print("\n".join(word + ending for ending in ("=", "/")) if bare else word)
    return 0
