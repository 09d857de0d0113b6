"""Saved answers scored by lmms_eval's own functions: reasoning tags, the task's filter, process_results, aggregation.

usage: scoring.py FOLDER TASK...    (FOLDER/<place of the task in the list>.jsonl; one round for every line on its input, one line of
JSON each: [{"read": seconds, "score": seconds, "values": {name: value}} or {"left_out": why}])

Packages that scoring does not need (torch, accelerate, the judges' clients) need not be there: nothing of lmms_eval is imported but the
tasks' functions, and the modules that would ask a judge or start a model are empty.
"""
import functools, importlib, importlib.util, io, json, os, random, sys, tempfile, time, types, warnings
from collections import defaultdict

ANSWERS, sys.stdout = sys.stdout, io.StringIO()
FOLDER, TASKS = sys.argv[1], sys.argv[2:]
os.chdir(tempfile.mkdtemp(dir=FOLDER))
warnings.filterwarnings("ignore")
ROOT = list(importlib.util.find_spec("lmms_eval").submodule_search_locations)[0]
TAGS = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]


def module(name, folder=None, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    if folder is not None:
        made.__path__ = [os.path.join(ROOT, folder)]
    sys.modules[name] = made


def nothing(*_args, **_options):
    return lambda thing=None: thing


# Packages without what their __init__ would import.
for name, folder in [("", ""), (".api", "api"), (".tasks", "tasks"), (".filters", "filters"), (".models", "models")]:
    module("lmms_eval" + name, folder)
module("lmms_eval.api.registry", register_aggregation=nothing, register_metric=nothing)
module("lmms_eval.api.filter", Filter=object)
module("lmms_eval.verifiers", "verifiers", VerificationPipeline=nothing)
module("lmms_eval.verifiers.openai", OpenAIVerifier=nothing)
module("lmms_eval.llm_judge", Request=nothing, ServerConfig=nothing, get_server=nothing)
for missing in ("sacrebleu", "evaluate", "requests"):
    if importlib.util.find_spec(missing) is None:
        module(missing)

from loguru import logger

logger.remove()
strip_reasoning_tags = importlib.import_module("lmms_eval.api.reasoning").strip_reasoning_tags
get = lambda path: importlib.import_module("lmms_eval." + path)


def mean(scores):
    return sum(scores) / len(scores)


def by_metric(process, aggregate):
    """As the evaluator does: a row's values by metric's name, then each metric's aggregate."""

    def score(rows):
        lists = defaultdict(list)
        for row in rows:
            said = strip_reasoning_tags(row["prediction"], TAGS)
            for name, value in process(row["record"], [said.strip()]).items():
                lists[name].append(value)
        return {name: aggregate[name](lists[name]) for name in aggregate if lists[name]}

    return score


def mmmu():
    m = get("tasks.mmmu.utils")
    return by_metric(m.mmmu_process_results, {"mmmu_acc": m.mmmu_aggregate_results})


def mmmu_pro():
    m = get("tasks.mmmu_pro.utils")
    return by_metric(m.mmmu_pro_process_results, {"mmmu_acc": m.mmmu_pro_aggregate_results})


def mmbench():
    m = get("tasks.mmbench.en_utils")
    aggregate = functools.partial(m.mmbench_aggregate_dev_results_static, args=None)
    return by_metric(m.mmbench_process_results, {"gpt_eval_score": aggregate})


def mmerealworld():
    m = get("tasks.mme_realworld.utils")
    return by_metric(m.mme_realworld_process_results, {"mme_realworld_score": m.mme_realworld_aggregate_results})


def ai2d():
    m, exact = get("tasks.ai2d.utils"), get("api.metrics").exact_match_hf_evaluate
    options = {"group_select": 0, "ignore_case": True, "ignore_punctuation": True, "regex_pattern": "([A-Z])\\."}
    answer_filter = m.MultiChoiceRegexFilter(**options)

    def score(rows):
        docs = [row["record"] for row in rows]
        scores = []
        for said, doc in zip(answer_filter.apply([[row["prediction"]] for row in rows], docs), docs):
            said = strip_reasoning_tags(said, TAGS).strip()
            target = m.ai2d_doc_to_target(doc, "mcq")
            scores.append(exact(predictions=[said], references=[target], ignore_case=True, ignore_punctuation=True)["exact_match"])
        return {"exact_match": mean(scores)}

    return score


def vstar():
    m = get("tasks.vstar_bench.utils")
    return by_metric(m.vstar_process_results, {"vstar_overall_acc": m.vstar_aggregate_results})


def chartqa():
    names = ("relaxed_overall", "relaxed_human_split", "relaxed_augmented_split")
    return by_metric(get("tasks.chartqa.utils").chartqa_process_results, {name: mean for name in names})


def docvqa():
    anls = get("api.metrics").anls
    return by_metric(lambda doc, said: anls(references=doc["answers"], predictions=said), {"anls": mean})


def mathvista():
    m = get("tasks.mathvista.utils")
    aggregate = functools.partial(m.mathvista_aggregate_results, args=None)
    return by_metric(m.mathvista_process_results, {"llm_as_judge_eval": aggregate})


def mmstar():
    m = get("tasks.mmstar.utils")
    return by_metric(m.mmstar_process_results, {"average": m.mmstar_aggregate_results})


def scienceqa():
    return by_metric(get("tasks.scienceqa.utils").sqa_process_results, {"exact_match": mean})


def mme():
    m = get("tasks.mme.utils")
    names = ("mme_perception_score", "mme_cognition_score")
    return by_metric(m.mme_process_results, {name: m.mme_aggregate_results for name in names})


OF = {
    "mmmu_val": mmmu,
    "mmmu_val (open)": mmmu,
    "mmmu_pro_standard": mmmu_pro,
    "mmbench_en_dev_static": mmbench,
    "mathvista_testmini_format": mathvista,
    "vstar_bench": vstar,
    "docvqa_val": docvqa,
}
FUNCTIONS, LEFT_OUT = {}, {}
for task in set(TASKS):
    try:
        FUNCTIONS[task] = OF.get(task, globals().get(task))()
    except Exception as error:
        LEFT_OUT[task] = f"{type(error).__name__}: {error}"


def one(place, task):
    if task in LEFT_OUT:
        return {"left_out": LEFT_OUT[task]}
    begin = time.process_time()
    with open(os.path.join(FOLDER, f"{place}.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    read = time.process_time() - begin
    # As the evaluator seeds it.
    random.seed(0)
    begin = time.process_time()
    values = FUNCTIONS[task](rows)
    score = time.process_time() - begin
    return {"read": read, "score": score, "values": {name: value and float(value) for name, value in values.items()}}


for _ in sys.stdin:
    round_ = [one(place, task) for place, task in enumerate(TASKS)]
    print(json.dumps(round_), file=ANSWERS, flush=True)
    sys.stdout.seek(0)
    sys.stdout.truncate()
