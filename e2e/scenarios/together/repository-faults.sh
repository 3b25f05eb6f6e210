# A wrong password, wrong keys, a token that is no longer valid, a bucket and a Secret that are missing are told in status and events; each is mended, and what waited goes on by itself.
faults="wrong-password wrong-keys no-bucket no-secret no-token"
# That one is there before, and is not made by the class.
secret wrong-password
stock_restic wrong-password cat config >/dev/null 2>&1 || stock_restic wrong-password init >&2
secret wrong-password "RESTIC_PASSWORD=another-$canary"
secret wrong-keys "AWS_SECRET_ACCESS_KEY=another-$canary"
secret no-bucket "RESTIC_REPOSITORY=s3:$store/later/no-bucket"
secret no-token "AWS_SESSION_TOKEN=ended-$canary"
kubectl -n backups delete secret no-secret --ignore-not-found >/dev/null
claim data 64Mi
run_pod writer data:/data
fill writer /data 2
for fault in $faults; do request_snapshot "$fault" data "windlass-$fault"; done
# One that is given up before anything is mended.
request_snapshot given-up data windlass-wrong-password
claim waiting 64Mi class=windlass-no-secret
pod waiting waiting:/data
declare -A said=(
    [wrong-password]="RESTIC_PASSWORD of the Secret does not open the repository"
    [wrong-keys]="the repository's store refuses access: check the keys of the Secret"
    [no-token]="the repository's store refuses access: check the keys of the Secret"
    [no-bucket]="the bucket does not exist"
    # The stock sidecar says no more: the Secret is named in the description of the content.
    [no-secret]="cannot get credentials for snapshot content"
)
error_of() { k get volumesnapshot "$1" -o jsonpath='{.status.error.message}'; }
says() { [[ "$(error_of "$1")" == *"${said[${2:-$1}]}"* ]]; }
# Also those of the sidecars. Contents are of no namespace; events of theirs are in `default`.
all_events_of() { kubectl -n default get events -o json --field-selector "involvedObject.name=$1"; }
is_warned() { all_events_of "$(content_of "$1")" | jq -e --arg text "${said[$1]}" 'any(.items[]; .type == "Warning" and (.message | gsub("\\\\"; "") | contains($text)))'; }
for fault in $faults; do
    until_true "the status of $fault says what is wrong" says "$fault"
    until_true "an event of $fault says what is wrong" is_warned "$fault"
    note "$fault: $(error_of "$fault")"
    [ "$(k get volumesnapshot "$fault" -o jsonpath='{.status.readyToUse}')" != true ] || fail "$fault is ready"
done
claim_says() { k get events -o json | jq -e 'any(.items[]; .involvedObject.name == "waiting" and (.message | contains("secrets \"no-secret\" not found")))'; }
until_true "an event of a claim says that the Secret of its class is missing" claim_says
until_true "what is to be given up says what is wrong, too" says given-up wrong-password
k delete volumesnapshot given-up --wait --timeout="${patience}s" >/dev/null
no_record() { in_driver windlass snapshot list --output json | jq -e --arg name "$namespace/given-up" 'all(.snapshots[]; .volume_snapshot != $name)'; }
until_true "nothing is left of what was given up" no_record
# The same failure is one event, however often it is met.
for fault in $faults; do
    all_events_of "$(content_of "$fault")" | jq -e '[.items[] | select(.type == "Warning") | .message] | length <= 6 and length == (unique | length)' >/dev/null || fail "$fault makes an event of each failure"
done
mended=$SECONDS
mkdir -p "$run/node2/store/later"
for fault in $faults; do
    if [ "$fault" = no-bucket ]; then secret no-bucket "RESTIC_REPOSITORY=s3:$store/later/no-bucket"; else secret "$fault"; fi
done
for fault in $faults; do
    snapshot_ready "$fault"
    note "$fault was ready $((SECONDS - mended)) s after it was mended"
    equal "$(error_of "$fault")" '' "the error of $fault, which is ready"
done
ready waiting
for fault in wrong-password wrong-keys no-secret no-token; do
    equal "$(exports_in "$fault")" 1 "the exports of $fault"
    stock_restic "$fault" check >&2
done
leaves_nothing
for fault in wrong-password wrong-keys no-secret no-token; do equal "$(exports_in "$fault")" 0 "the exports of $fault after its deletion"; done
