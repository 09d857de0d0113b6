"""The rules of caption_quality as a user of datatrove would write them: a BaseFilter over Documents.

usage: peer.py CAPTIONS.jsonl  ->  {"peer": name, "seconds": median of rounds, "kept": n}
"""
import json, re, statistics, sys, time

PREFIXES = ("i'm sorry", "i am sorry", "i cannot", "i can't")
WORDS = re.compile(r"\w+")


def judge(text):
    if text.lower().startswith(PREFIXES):
        return False, "refusal"
    last, run = None, 0
    for word in WORDS.findall(text):
        run = run + 1 if word == last else 1
        last = word
        if run >= 8:
            return False, "repeated word"
    if len(text) < 50:
        return False, "too short"
    if len(text) > 3500:
        return False, "too long"
    return True


with open(sys.argv[1], encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]

try:
    from datatrove.data import Document
    from datatrove.pipeline.filters.base_filter import BaseFilter

    class CaptionQuality(BaseFilter):
        name = "caption_quality"

        def filter(self, doc):
            return judge(doc.text)

    def documents():
        return (Document(text=text, id=str(i)) for i, text in enumerate(texts))

    import loguru
    loguru.logger.remove()
    peer = "datatrove"
    def work():
        return sum(1 for _ in CaptionQuality().run(documents()))
except ImportError:
    peer = "plain Python (pip install datatrove to compare with it)"
    def work():
        return sum(1 for text in texts if judge(text) is True)

work()
seconds = []
for _ in range(5):
    begin = time.perf_counter()
    kept = work()
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"peer": peer, "seconds": statistics.median(seconds), "kept": kept}))
