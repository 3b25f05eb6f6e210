#!/usr/bin/env bash
# Ends a test run: how long what took, which tests failed and why, and how many. The last line is `N passed, N failed`, the status 0
# if none did. Where a log is cut short it is the end that is kept: the last 40 lines say what failed and why.
#
#   e2e/summary.sh LOG PASSED
#
# LOG is everything that was printed, and gets these lines too; PASSED counts what passed and left no line there that counts.
#
# Three sorts of lines count: `test result: ok. 12 passed; 0 failed; 1 ignored; ...` of each test binary,
# `csi-sanity xfs mount: 77 passed, 0 failed, 19 skipped` of each run of csi-sanity, and `!! TEXT` of what failed otherwise.
set -uo pipefail

log=$1 passed=$2

read -r tests failed skipped < <(awk '
    /^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) skipped += $(i - 1)
        }
    }
    /^csi-sanity .*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {
        passed += $(NF - 5); failed += $(NF - 3); skipped += $(NF - 1)
    }
    /^!! [^ ]/ { failed++ }
    END { print passed + 0, failed + 0, skipped + 0 }' "$log")
passed=$((passed + tests))

# Of each failed test what it said from its panic on, without the backtrace.
reasons=$(awk '
    /^failures:$/ { inside = 1; told = 0 }
    /^(successes:|test result: .*|== .*)$/ { inside = told = 0 }
    inside && /^---- .* stdout ----$/ { name = $0; told = traced = lines = 0; next }
    inside && !told && / panicked at / { told = 1; print ""; print name }
    told && /^stack backtrace:$/ { traced = 1 }
    told && !traced && lines < 60 { print; lines++ }
    traced && /^note: / { traced = 0 }' "$log")

# The same in at most 36 lines: what failed besides the tests with the last lines of why, then each failed test with its reason on one line.
in_short() {
    local heads each
    heads=$(grep -c '^!! [^ ]' "$log")
    if [ "$heads" -gt 0 ]; then
        each=$((16 / heads))
        awk -v each="$each" '
            function tell(  i) { for (i = (n > each - 1 ? n - each + 2 : 1); i <= n; i++) print why[i]; n = 0 }
            /^!! [^ ]/ { tell(); if (++told <= 16) print }
            /^!!  / { why[++n] = $0 }
            END { tell() }' "$log"
    fi
    printf '%s\n' "$reasons" | awk '
        function tell() { if (name != "") print substr(name ": " reason, 1, 400); name = reason = "" }
        /^---- .* stdout ----$/ { tell(); name = $0; sub(/^---- /, "FAILED ", name); sub(/ stdout ----$/, "", name); next }
        { sub(/^ +/, "") }
        NF { sub(/^thread .* panicked at /, ""); reason = reason (reason == "" ? "" : " ") $0 }
        END { tell() }' | head -n 16
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | awk '
        { names = names (NR > 1 ? ", " : "") $0 }
        END { if (NR) print NR " failed: " substr(names, 1, 1500) }'
}

{
    printf '\nWhat took longest, in seconds:\n'
    sed -n 's/^== stage \(.*\) took \([0-9]*\) s$/\2 \1/p' "$log" | awk '{ t = $1; sub(/^[0-9]* /, ""); printf "%6d  stage: %s\n", t, $0 }'
    sed -n '/^== stage /d; s/^== \(.*\) took \([0-9]*\) s$/\2 \1/p' "$log" | sort -rn | head -n 15 |
        awk '{ t = $1; sub(/^[0-9]* /, ""); printf "%6d  %s\n", t, $0 }'
    if [ "$failed" -gt 0 ]; then
        [ -z "$reasons" ] || printf '\nWhy tests failed:\n%s\n' "$reasons"
        printf '\nIn short:\n'
        in_short
    fi
    # A run in which no test ran is none.
    if [ "$tests" -eq 0 ]; then
        failed=$((failed + 1))
        printf 'no test passed\n'
    fi
    printf '%s\n' "$skipped skipped (each with its reason above); all output is in $log" "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
} >"$log.end"
status=$?
tee -a "$log" <"$log.end"
rm -f "$log.end"
exit "$status"
