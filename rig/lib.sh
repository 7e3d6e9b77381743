# shellcheck shell=bash
# What every script of the rig shares; source it, don't run it:
#
#	#!/bin/bash
#	set -euo pipefail
#	. "$(dirname "$(readlink -f "$0")")/lib.sh"
#
# $root	this repository		$build	everything generated, build/
# $log	full logs		$cache	what outlives the checkout: downloads, the
# $linux	the composed tree		base repository, ccache
#
# Words for the user go to stderr, so that stdout stays the script's result.

# shellcheck disable=SC2034	# used by those who source this
{
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
build=$root/build
log=$build/log
linux=$build/linux
cache=${XDG_CACHE_HOME:-$HOME/.cache}/linux-gmem
}
mkdir -p "$log" "$cache"

export LC_ALL=C
export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache}

# The variables of "make test ARCH=..." are in the environment; as make's flags
# they would override those of every make below.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# A git hook that calls us must not redirect our git commands.
# shellcheck disable=SC2046	# a list of words
unset $(git rev-parse --local-env-vars 2>/dev/null)

say()  { printf '%s\n' "$*" >&2; }
step() { printf '==> %s\n' "$*" >&2; }
warn() { printf '%s: warning: %s\n' "${0##*/}" "$*" >&2; }
die()  { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# elapsed SECONDS: 7s, 2m05s, 1h02m
elapsed() {
	local s=$1

	if   ((s < 60));   then printf '%ds' "$s"
	elif ((s < 3600)); then printf '%dm%02ds' $((s / 60)) $((s % 60))
	else                    printf '%dh%02dm' $((s / 3600)) $((s % 3600 / 60))
	fi
}

# run_logged [--expect N] [--match ERE] NAME DESCRIPTION COMMAND...
#
# Run a long COMMAND (or shell function) with its output in build/log/NAME.log
# and progress on the terminal: one line that updates itself, or a line every
# 30 s when stderr is no terminal. Progress counts the lines of the log that
# match ERE (default: all); --expect says how many there will be and makes it a
# percentage. Returns COMMAND's status; when that is not 0, the errors in the
# log and its tail have been shown. The number of lines counted is left in
# $run_lines, for the next --expect.
#
# COMMAND runs in a process group of its own, which a signal to us takes along.
run_logged() {
	local expect=0 match='' name what file start now last=-1 pid rc=0 line sig

	while :; do
		case $1 in
		--expect) expect=${2:-0}; shift 2 ;;
		--match)  match=$2; shift 2 ;;
		*) break ;;
		esac
	done
	name=$1 what=$2; shift 2
	file=$log/$name.log
	mkdir -p "$(dirname "$file")"
	start=$SECONDS

	set -m
	"$@" >"$file" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064	# now is right: pid is local
	for sig in INT TERM; do
		trap "kill -TERM -- -$pid 2>/dev/null; trap - $sig; kill -$sig \$\$" $sig
	done

	[[ -t 2 ]] || say "==> $what (log: ${file#"$root"/})"
	while kill -0 "$pid" 2>/dev/null; do
		now=$((SECONDS - start))
		if [[ -t 2 ]]; then
			line="==> $what: $(_progress "$file" "$match" "$expect")$(elapsed $now)"
			printf '\r\033[K%.*s' "$((${COLUMNS:-80} - 1))" "$line" >&2
		elif ((now / 30 > last)); then
			((last < 0)) ||
				say "    $what: $(_progress "$file" "$match" "$expect")$(elapsed $now)"
			last=$((now / 30))
		fi
		# Poll fast at first: most commands are short.
		if ((now < 2)); then sleep 0.1; else sleep 1; fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM

	now=$(elapsed $((SECONDS - start)))
	run_lines=$(_count "$file" "$match")
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	if ((rc == 0)); then
		if [[ -t 2 ]]; then say "==> $what: done in $now"
		else say "    $what: done in $now"; fi
		return 0
	fi

	say "==> $what: FAILED (status $rc) after $now"
	line=$(head -n -30 "$file" |
		grep -nE '(error|Error|ERROR|fatal): |\*\*\*|undefined reference' | head -n 10) || :
	[[ -z $line ]] || printf '%s\n    [...]\n' "$line" >&2
	tail -n 30 "$file" >&2
	say "==> full log: ${file#"$root"/}"
	return "$rc"
}

_count() { grep -cE -- "$2" "$1" || :; }

_progress() {
	local n

	n=$(_count "$1" "$2")
	if (($3 > 0)); then
		printf '%d%% (%d of %d), ' $((n >= $3 ? 99 : n * 100 / $3)) "$n" "$3"
	elif ((n > 0)); then
		printf '%d lines, ' "$n"
	fi
}

# kgit ARGS...: git in the composed tree, deaf to the user's configuration, so
# that everyone gets the same bytes. safe.directory: the tree is ours, whoever
# runs this.
kgit() {
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1 \
		git -c safe.directory='*' -C "$linux" "$@"
}

# ours PATH: is this the path of a file that goes into the tree? The rest is the
# repository's own.
ours() {
	case $1 in
	patches/*|rig/*|config/*|.ci/*|build/*) return 1 ;;
	README.md|COPYING|Makefile|base|.gitignore) return 1 ;;
	esac
}

# lock_tree: one at a time may change build/linux; held until we exit.
lock_tree() {
	[[ -z ${RIG_TREE_LOCKED:-} ]] || return 0
	export RIG_TREE_LOCKED=1
	exec 8>"$build/tree.lock"
	flock -n 8 || { say "waiting for another make tree or make patches"; flock 8; }
}
