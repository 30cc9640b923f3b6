"""Bad command lines over all verbs: exit code 2, one line on stderr, which names the thing and the
remedy."""

from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import make_folder
from tests.data.helpers import greys, video

from diptych import cli
from diptych.cli import main

PAIR = "--data photos --out x"
RULE = "--data photos --val photos --out x"
GRID = "--data photos --test photos --budget 8 --out x"

# What is typed behind `diptych`, in a folder with photos/ (images and captions), empty/, full/ (not
# empty), a.txt and YAML files that are wrong; what the one line must hold.
ROWS: list[tuple[str, tuple[str, ...]]] = [
    # words that do not exist
    ("trian clip", ("unknown command 'trian'", "did you mean 'train'")),
    ("--verbose", ("unknown option '--verbose'",)),
    ("train clip --leraning-rate 1", ("--leraning-rate",)),
    ("train clpi --data photos --out x", ("unknown method 'clpi'", "did you mean 'clip'")),
    ("train mine.py --data photos --out x", ("mine.py: there is no such file", "check the path")),
    (
        "train a.py --data photos --out x",
        ("a.py", "no literal dict `card`", "docs/add_a_method.md"),
    ),
    (f"train clip {PAIR} --preset papre", ("preset of CLIP 'papre'", "did you mean 'paper'")),
    (f"train clip {PAIR} --optimizer admw", ("optimizer 'admw'", "did you mean 'adamw'")),
    (f"train clip {PAIR} --image-tower vti", ("image tower 'vti'", "did you mean 'vit'")),
    (f"train clip {PAIR} --tokenizer bpee", ("tokenizer 'bpee'", "did you mean 'bpe'")),
    (f"train clip {PAIR} --init tiny --adapt lroa", ("adapter 'lroa'", "did you mean 'lora'")),
    (
        f"train clip {PAIR} --init tiny --adapt lora:layers=qkv",
        ("no linear layer 'qkv'", "there are"),
    ),
    (f"train lora {PAIR} --init tiny --preset tune --method.layers fc3", ("'fc3'", "fc1, fc2")),
    (
        f"train clip {PAIR} --text-tower none",
        ("reads texts, and there is no tokenizer", "leave out --text-tower none"),
    ),
    # found when the data are read, before the run's folder is written
    (f"train supcon {PAIR} --batch-size 2", ("photos has no labels.class", "name a source")),
    (f"train clip {PAIR} --batch-size 99", ("batch size 99", "lower --batch-size")),
    (f"train albef {PAIR} --method.images 2", ("is about one image", "classes or assignment")),
    (f"train albef {PAIR} --batch-size 1", ("batch size 1 is below the 2", "raise --batch-size")),
    (
        f"train albef {PAIR} --batch-size 4 --method.queue 2",
        ("batch size 4 is above the 2 of --method.queue", "lower --batch-size"),
    ),
    (
        f"train nevlp {PAIR} --init tiny --batch-size 2",
        ("fewer than the 4 of an image", "lower --method.min_count"),
    ),
    (
        f"train nevlp {PAIR} --init tiny --batch-size 2 --method.task captions",
        ("the second stage of nevlp", "start it from a run of the first"),
    ),
    (f"train doco {PAIR} --batch-size 2", ("photos has no boxes", "DoCo needs")),
    (
        f"train doco {PAIR} --batch-size 2 --method.teacher bert",
        ("teacher is 'bert'", "write layout:"),
    ),
    (f"train byol {PAIR} --batch-size 2 --chunk 8", ("--chunk cannot cut it", "leave it out")),
    (
        f"train mcl {PAIR} --batch-size 2 --method.clusters 99",
        ("mcl makes 99 clusters of 4 points", "ask for fewer clusters"),
    ),
    (
        "train cosmo --init tiny --data documents=a.txt --batch-size 2 --out x",
        ("a.txt has no images.main", "COSMO needs"),
    ),
    (
        "train cosmo --init tiny --data pairs=photos --batch-size 2 --out x",
        ("stream of cosmo 'pairs'", "clips, documents"),
    ),
    (
        f"train cosmo {PAIR} --init tiny --method.lm tiny",
        ("lm=tiny is no language model", "hf-lm:FOLDER"),
    ),
    (f"train sevlm {PAIR} --init tiny --batch-size 2", ("no texts.emotion", "name a source")),
    (
        "train sevlm --init tiny --data paintings:count=8 --method.lexicon vad.txt --out x",
        ("there is no lexicon in vad.txt", "name paintings"),
    ),
    (f"train cosmo {PAIR} --init tiny --method.unimodal 4", ("4 blocks", "--method.unimodal")),
    (f"train s_vco {PAIR} --init tiny", ("start from one, such as a RUN of cg_vlm", "--init")),
    (
        f"train s_vco {PAIR} --init tiny --method.new_adapter true --method.objective svc",
        ("objective", "did you mean 'svco'"),
    ),
    ("data contrast photos --out x", ("no sample of photos has an image, and an edit",)),
    ("data contrast photos --model tiny --out x", ("two models", "--differs")),
    ("data contrast photos --out x.json", ("a folder of images and a list", "give a folder")),
    (f"train vladva {PAIR} --init tiny --batch-size 2", ("no language model", "start from a RUN")),
    (
        f"train vladva {PAIR} --init tiny --batch-size 2 --method.lm tiny-lm",
        ("a new adapter", "--method.train_adapter true"),
    ),
    ("prompts tiny photos", ("summaries, which tiny has not", "vladva")),
    ("prompts tiny photos --side left", ("unknown side 'left'", "image, text")),
    ("prompts tiny photos --candidates no.txt", ("no.txt is no text file", "a prompt a line")),
    ("prompts tiny", ("has no source", "images with captions")),
    (f"train clip {PAIR} --adapt lora", ("--adapt lora", "name one with --init")),
    (f"train coop {PAIR} --init tiny --adapt lora", ("coop adapts a model", "leave out --adapt")),
    (f"train clip {PAIR} --patience 2", ("patience", "name it with select")),
    (f"train clip {PAIR} --select t2i_r1", ("--select t2i_r1", "data with --val")),
    ("info tiny --report", ("tiny is no run", "diptych train --out")),
    (f"train clip {PAIR} --method.scal 3", ("--method.scal", "did you mean '--method.scale'")),
    (f"train clip {PAIR} --with simclr", ("simclr", "cannot be added")),
    (
        "evaluate tiny --data photos --suite retrievel",
        ("suite 'retrievel'", "did you mean 'retrieval'"),
    ),
    (
        "evaluate tiny --data glyphs --suite separation --common a --salient b",
        ("tiny has no space 'common'", "a run of sepclr has two"),
    ),
    (
        f"train sepclr {PAIR} --method.discrete [a] --method.continuous [a]",
        ("an attribute is given twice", "name each once"),
    ),
    ("check faces", ("list_attr_celeba.txt is no list of attributes", "copy it again")),
    ("check eyes.csv", ("eyes.csv", "compare it with the published table")),
    ("check sprites.npz", ("sprites.npz: cannot be read", "fetch it again")),
    ("list models --filter CLAP", ("none of the 146 models has 'CLAP'", "leave out --filter")),
    ("list twoers", ("unknown list 'twoers'", "did you mean 'towers'")),
    ("reproduce lino", ("claim 'lino'", "did you mean 'lion'")),
    ("data mkae scenes --out x", ("'mkae'", "did you mean 'make'")),
    ("data refine photos --out x", ("refined captions are a .jsonl file", "--out x.jsonl")),
    (
        "data refine photos --negative 5% --out x.jsonl",
        ("--negative compares sentences with images", "--model"),
    ),
    (
        "data refine photos --by world --out x.jsonl",
        ("captions by key are a .json file", "diptych data describe"),
    ),
    (
        "data refine photos --rules shrtest=3 --out x.jsonl",
        ("'shrtest'", "did you mean 'shortest'"),
    ),
    ("data filter photos --without a --out x.npz", ("--without goes with `data refine`",)),
    (
        f"train urbanclip {PAIR} --batch-size 2 --method.decoder parallel",
        ("a text tower urbanclip.parallel", "--text-tower urbanclip.parallel"),
    ),
    ("data make scens --out x", ("world 'scens'", "did you mean 'scenes'")),
    ("export tiny --to onxn --out x", ("target 'onxn'", "did you mean 'onnx'")),
    # things that are not there
    ("train clip --data nowhere/ --out x", ("unknown source 'nowhere/'", "there are: ")),
    (
        "train clip --data photos:splt=train --out x",
        ("option of source 'photos' 'splt'", "there are: frames, text"),
    ),
    (f"train clip {PAIR} --config no.yaml", ("no.yaml", "no such file")),
    (f"train clip {PAIR} --config broken.yaml", ("broken.yaml is not YAML",)),
    (
        f"train clip {PAIR} --config aliases.yaml",
        ("aliases.yaml holds more than 100,000 values", "write fewer"),
    ),
    (
        f"train clip {PAIR} --config nested.yaml",
        ("method in nested.yaml is {'scale': 7}", "options under config"),
    ),
    ("train --resume --out nowhere", ("there is no nowhere/config.yaml", "without --resume")),
    (f"train clip {PAIR} --init nowhere", ("no model at 'nowhere'", "name a RUN")),
    ("embed nowhere photos --out x", ("no model at 'nowhere'", "name a RUN")),
    ("embed hf:./nowhere photos --out x", ("no folder './nowhere'", "name a folder")),
    ("embed tiny photos --out x --device gpu", ("unknown device 'gpu'", "cuda")),
    ("classify tiny photos --names a,b --device cuda:99", ("no device 'cuda:99' here", "auto")),
    ("evaluate tiny --data photos --device tpu", ("unknown device 'tpu'",)),
    ("generate tiny-lm --device cpu:3", ("unknown device 'cpu:3'",)),
    ("data make scenes --device cpu --out x", ("--device goes with", "not with `data make`")),
    ("check python:list", ("python:list was given by a Python program", "from Python")),
    ("embed tiny photos --weights a.txt --out x", ("--weights", "tiny has its own")),
    ("embed tiny photos --out x --columns price", ("column of photos 'price'", "there are: none")),
    ("embed tiny photos --out x --columns caption", ("every search shows", "leave it out")),
    ("embed tiny photos --regions --out x", ("photos has no boxes", "give a file with --boxes")),
    ("embed tiny photos --boxes a.json --out x", ("--boxes is about regions", "--regions")),
    ("embed tiny photos --regions --boxes no.json --out x", ("no.json: no such file", "check")),
    ("embed tiny photos --regions --boxes a.txt --out x", ("a.txt: not JSON", "check where")),
    (
        "embed tiny photos --regions --boxes outside.json --out x",
        ("the box (0, 0, 9999, 9)", "lies outside the image", "mend the boxes"),
    ),
    (
        "embed tiny photos --regions --boxes other.json --out x",
        ("has boxes of cat.jpg", "name images as the source does"),
    ),
    (
        "embed tiny photos --regions --boxes inside.json --size 60 --out x",
        ("size is 60 pixels", "give a multiple"),
    ),
    ("embed tiny photos --out x --part 4/3", ("part '4/3' is none", "such as 3/100")),
    ("embed --merge --out x", ("x.parts holds no parts", "--part 1/N")),
    ("embed --merge", ("--merge has no folder", "--out EMB")),
    ("embed tiny photos --merge --out x", ("--merge joins parts", "diptych embed --merge --out")),
    ("embed tiny photos --out x --engine spark", ("engine 'spark' is none", "ray:HOST:PORT")),
    ("embed tiny photos --out x --engine ray --part 1/2", ("shares the parts", "leave out --part")),
    ("embed tiny photos --out x --engine ray --precision auto", ("one machine", "write float32")),
    ("embed tiny photos --out x --engine ray --backend auto", ("one machine", "write torch")),
    ("embed tiny photos --out x --backend openvin", ("--backend 'openvin'", "mean 'openvino'")),
    (
        "embed tiny photos --out x --backend onnxruntime --precision int8",
        ("onnxruntime does not compute in int8", "auto takes the faster"),
    ),
    ("embed tiny photos --out x --engine ray --device mps", ("'mps' is of one machine", "cuda")),
    ("check photos --engine ray:host", ("engine 'ray:host' is none", "ray:auto")),
    ("check photos --engine ray --workers 2", ("a cluster has workers", "leave out workers")),
    ("data make scenes --engine ray --out x", ("--engine goes with `data filter`",)),
    ("data filter photos --engine rya --out x.npz", ("engine 'rya' is none", "write ray")),
    ("check bogus://bucket/a.tar", ("Protocol not known: bogus", "download it first")),
    ("search nowhere cat", ("nowhere is not a folder", "diptych embed")),
    ("search photos cat", ("photos has no diptych.json", "diptych embed")),
    ("search photos cat --frames 4", ("--frames says how a clip is read", "--image FILE")),
    ("search photos --image photos --frames 999", ("photos: frames=999", "give 1 to 256")),
    ("embed tiny no.mp4 --out x", ("no.mp4: no such file", "check the path")),
    ("classify tiny cut.mp4 --names a,b", ("cut.mp4", "1 truncated")),
    ("data show scenes:film=1 --out x.html", ("'film' of world 'scenes' is 1", "give 2 or more")),
    ("index photos", ("photos has no diptych.json", "diptych embed")),
    ("view", ("nothing to show", "name a source")),
    ("view nowhere --out x.html", ("unknown source 'nowhere'", "there are: ")),
    ("view photos --out empty", ("empty is a folder", "give a file")),
    ("view empty --out x.html", ("empty: no images",)),
    ("view photos --data photos", ("--data goes with a RUN", "leave it out")),
    ("view photos --count 3", ("--count is of a file", "--out")),
    ("estimate clip", ("needs the hardware", "--hardware")),
    ("estimate --hardware 8xH100", ("takes a METHOD, or --all", "give one")),
    ("estimate clpi --hardware 8xH100", ("unknown method 'clpi'", "did you mean 'clip'")),
    ("estimate clip --hardware 8xH10", ("unknown hardware 'H10'", "did you mean 'H100'")),
    ("estimate clip --hardware 0xH100", ("has 0 devices", "such as 8xH100")),
    ("estimate clip --hardware H100 --preset papre", ("'papre'", "did you mean 'paper'")),
    ("estimate clip --hardware H100 --samples many", ("'many' is no number", "such as 400M")),
    ("estimate clip --hardware H100 --mfu 40", ("--mfu is 40", "at most 1")),
    ("estimate clip --hardware H100 --price -1", ("--price is -1", "for an hour")),
    (
        "estimate proapo --preset small --hardware H100",
        ("takes no training steps", "nothing to estimate"),
    ),
    (
        "estimate clip --preset small --hardware 2x989TFLOPS:1GB",
        ("a step takes at least", "more of them do not help"),
    ),
    ("index photos --map", ("photos has no diptych.json", "diptych embed")),
    ("index photos --compress", ("photos has no diptych.json", "diptych embed")),
    ("index photos --to lancedb:x", ("photos has no diptych.json", "diptych embed")),
    ("index photos --to x", ("--to is x", "lancedb:PATH")),
    ("index photos --to lancedb:x --compress", ("--compress is of a folder", "always holds codes")),
    ("index photos --map --to lancedb:x", ("--to is of the index", "leave one out")),
    ("index lancedb:x", ("lancedb:x holds no LanceDB table", "diptych index EMB --to lancedb:x")),
    ("index lancedb:x --map", ("--map takes a folder", "name the folder")),
    ("index lancedb:x --to lancedb:y", ("--to takes a folder", "name the folder")),
    ("index lancedb:x:version=2 --remove a", ("is one version", "leave :version=2 out")),
    ("search lancedb:full cat", ("lancedb:full holds no LanceDB table", "diptych index EMB --to")),
    ("search lancedb: cat", ("'lancedb:' is no address", "lancedb:PATH:version=3")),
    ("search lancedb:x:verson=3 cat", ("is no address of a store", "lancedb:PATH:version=3")),
    ("search lancedb:x:version=0 cat", ("names no version", "numbers from 1")),
    ("serve lancedb:x", ("lancedb:x holds no LanceDB table", "diptych index EMB --to")),
    ("view lancedb:x", ("view takes a folder", "name the folder")),
    ("index photos --map --compress", ("--compress is of the index", "leave one out")),
    ("index photos --map --lists 4", ("--lists is of the index", "leave one out")),
    ("index photos --projection umap", ("--projection is of the map", "--map")),
    ("serve", ("no folder", "diptych embed")),
    ("serve nowhere", ("nowhere is not a folder", "diptych embed")),
    ("serve photos", ("photos has no diptych.json", "diptych embed")),
    ("info empty", ("empty has no model.json", "name a RUN")),
    ("check nowhere.csv", ("nowhere.csv",)),
    (
        "classify tiny photos --names classes.txt",
        ("classes.txt: there is no such file", "check the path"),
    ),
    ("classify tiny nowhere.jpg --names a,b", ("nowhere.jpg",)),
    (
        "classify tiny photos --names a,b --role caption",
        ("role is of texts", "tiny classifies images", "leave role out"),
    ),
    ("compare empty", ("no data", "--data")),
    ("scaling", ("has no runs", ".csv")),
    (f"train scaling_laws {PAIR}", ("scaling_laws is an analysis", "run diptych scaling")),
    ("scaling nowhere.csv --metric a", ("no such table", ".csv file of runs")),
    ("scaling photos --metric a", ("photos: there is no such table", ".csv file of runs")),
    ("scaling x.csv --out laws.pdf", ("laws.pdf", ".html")),
    ("scaling x.csv --failed many", ("--failed 'many'", "0.7:1e11")),
    ("scaling x.csv --predict -1", ("--predict '-1'", "above 0")),
    ("scaling x.csv --form line", ("--form 'line'",)),
    ("discover", ("has no task", "CONFIG.yaml")),
    ("discover clip --data photos --out x", ("no held-out data", "--val")),
    (f"discover clpi {RULE}", ("unknown method 'clpi'", "did you mean 'clip'")),
    (f"discover coop {RULE}", ("coop adapts a trained model", "name another method")),
    (f"discover a.yaml {RULE}", ("a.yaml: there is no such file", "check the path")),
    (f"discover mod_x {RULE} --batch-size 2", ("mod_x trains in several stages", "such as clip")),
    (
        f"discover clip {RULE} --batch-size 2 --funnel many",
        ("--funnel 'many'", "such as 3x1,10x1.5"),
    ),
    (f"discover clip {RULE} --search randm", ("--search 'randm'", "did you mean 'random'")),
    (f"discover clip {RULE} --steps 1", ("--steps is 1", "at least 4")),
    (f"discover clip {RULE} --batch-size 2 --resume", ("x holds no search", "--resume")),
    (
        "discover clip --data photos --val photos --batch-size 2 --out full",
        ("full is not empty", "--out"),
    ),
    (
        f"train clip {PAIR} --optimizer rule.py",
        ("rule.py: there is no such file", "check the path"),
    ),
    (f"train clip {PAIR} --optimizer a.py", ("a.py", "one function", "docs/discover.md")),
    ("reproduce my_claim.py", ("my_claim.py: there is no such file", "check the path")),
    # values of the wrong type, or out of range
    (f"train clip {PAIR} --steps many", ("--steps 'many'", "a whole number")),
    (f"train clip {PAIR} --lr", ("--lr has no value", "a number")),
    (f"train clip {PAIR} --lr -1", ("'lr' of recipe is -1.0", "above 0")),
    (f"train clip {PAIR} --batch-size 0", ("'batch_size' of recipe is 0", "at least 1")),
    (f"train clip {PAIR} --workers -1", ("--workers is -1", "at least 0")),
    (f"train clip {PAIR} --shots 0", ("shots=0 of", "write 1 or more")),
    (f"train clip {PAIR} --precision int4", ("--precision 'int4'", "float32 or bfloat16")),
    (f"train clip {PAIR} --method.decay 2", ("'decay' of method CLIP is 2.0", "at most 1")),
    ("search photos cat -k 0", ("-k is 0", "at least 1")),
    ("classify tiny photos --names a,b -k -3", ("-k is -3", "at least 1")),
    ("embed tiny photos --out x --batch-size -2", ("--batch-size is -2", "at least 1")),
    ("embed tiny photos --out x --precision float13", ("--precision 'float13'",)),
    ("check photos --batch-size 0", ("--batch-size is 0", "at least 1")),
    ("data curate photos --model tiny --out x.npz", ("no images to look for", "--queries SOURCE")),
    ("data curate photos --queries photos --out x.npz", ("no model to compare with", "--model")),
    ("data curate photos --queries photos --model tiny --out x", ("x.npz",)),
    (
        "data curate photos --queries photos --model tiny --k 0 --out x.npz",
        ("--k is 0", "at least 1"),
    ),
    ("data curate photos --queries empty --model tiny --out x.npz", ("empty",)),
    ("data make scenes --count -5 --out x", ("--count is -5", "at least 1")),
    ("data make scenes --count none --out x", ("--count 'none'", "a whole number")),
    ("data show scenes:size=abc --out x.html", ("size", "abc")),
    ("generate tiny-lm --count 0", ("--count is 0", "at least 1")),
    ("generate tiny-lm --temperature -1", ("temperature", "-1")),
    ("evaluate tiny --data photos --suite probe --shots a,b", ("--shots", "whole numbers")),
    (
        "compare clip --data photos --test photos --budget lots --out x",
        ("--budget 'lots'", "numbers"),
    ),
    ("compare clip --data photos --test photos --budget -8 --out x", ("budget -8", "above 0")),
    (f"compare clip {GRID} --jobs 0", ("--jobs is 0", "at least 1")),
    (f"compare clip {GRID} --optimizer sdg", ("optimizer 'sdg'", "did you mean 'sgd'")),
    (f"train clip {PAIR} --recipe.schedule cosin", ("schedule 'cosin'", "did you mean 'cosine'")),
    ("reproduce lion --seeds one", ("--seeds 'one'", "whole numbers")),
    ("demo --seed x", ("--seed 'x'", "a whole number")),
    ("detect tiny photos --score-threshold 2", ("--score-threshold is 2", "0 to 1")),
    ("draw tiny cat --count 0 --out x", ("--count is 0", "at least 1")),
    ("serve photos --port -1", ("--port is -1", "at least 0")),
    ("serve photos --concurrent 0", ("--concurrent is 0", "at least 1")),
    ("serve photos --seconds 0", ("the limit seconds is 0", "above 0")),
    ("serve photos --max-pixels 200", ("the limit pixels is 200,000,000", "89,478,485")),
    ("index photos --recall 2", ("--recall is 2", "at most 1")),
    # words that contradict each other, or that are one too many
    (f"train clip {PAIR} --init tiny --embed-dim 8", ("--init tiny", "leave out")),
    (f"train clip {PAIR} --weights a.txt", ("--weights a.txt", "--init")),
    (f"train coop {PAIR}", ("coop adapts", "--init")),
    (f"train clip {PAIR} more.tar", ("'more.tar'", "quotes")),
    ("reproduce lion --all", ("the name of a claim, or --all",)),
    ("data show scenes --shard 8 --out x.html", ("--shard goes with `data make`",)),
    ("data make scenes:count=3 --count 4 --out x", ("count is given twice", "give it once")),
    ("visual tiny a.txt --threshold 0.1 --val photos", ("--threshold and --val", "leave one out")),
    (f"compare clip clip {GRID}", ("each once",)),
    (f"compare clip simclr {GRID} --suite retrieval", ("simclr has no text tower", "--suite")),
    (f"compare clip coop {GRID}", ("coop adapts a trained model", "diptych train coop")),
    ("search photos cat dog", ("'dog'", "quotes")),
    # names that are empty
    ("train clip --data= --out x", ("names no source", "--data SOURCE")),
    ("classify tiny photos --names ,", ("name",)),
    ("compose tiny photos a.txt", ("no instruction", "in quotes")),
    ("visual tiny", ("no texts", "a .txt file")),
    ("visual tiny-lm cat --words", ("tiny-lm has no text tower", "name a model")),
    (
        "evaluate tiny --data photos --suite visualness --drawer tiny",
        ("the drawer of visualness needs a model with draw", "diptych train"),
    ),
    ("data ratings --out x.jsonl", ("no table", "ratings.csv")),
    ("data ratings a.txt --out x.jsonl", ("a.txt: ratings are a .csv", "save the table")),
    ("data ratings no.csv --out x.jsonl", ("no.csv: there is no such file", "check the path")),
    ("data ratings no.csv --votes 0 --out x.jsonl", ("--votes is 0", "at least 1")),
    ("data pages --out x.jsonl", ("no document", "report.pdf")),
    ("data pages photos --out x.jsonl", ("photos: no document", ".html", ".pdf")),
    ("data pages a.html --out x.jsonl", ("a.html: there is no such file", "check the path")),
    ("data pages photos --out x.csv", ("x.csv", "--out x.jsonl")),
    (
        "data pages photos --model tiny --out x.jsonl",
        ("--model goes with", "not with `data pages`"),
    ),
    ("attack tiny --data photos", ("a model with apply", "diptych train c_pgc")),
    ("link tiny photos", ("no queries", "a source of images and texts")),
    ("cluster tiny photos", ("needs a distance", "--val")),
    ("fill tiny cat", ("a model with fill", "diptych train biovil")),
    ("match tiny photos", ("a model with match", "diptych train albef")),
    ("match", ("no model", "RUN")),
    ("search empty cat --rerank 5", ("empty", "diptych embed")),
    ("fit nowhere photos --out x", ("no model at 'nowhere'", "name a RUN")),
    ("fit tiny glyphs --out x", ("glyphs has no label with real values", "with --target")),
    ("fit tiny", ("fit has no source", "name images with labels")),
    (
        "fit tiny tiles:count=8 --target carbonn --out x",
        ("no labels.carbonn", "another of its labels: carbon"),
    ),
    ("predict tiny photos", ("a model with predict", "diptych train renalclip")),
    ("generate", ("no model", "RUN")),
    ("draw tiny", ("nothing to draw", "name of a concept")),
    # places to write that will not do
    ("train clip --data photos --out full", ("full is not empty", "--out")),
    ("train clip --data photos --out a.txt", ("a.txt is a file", "--out")),
    ("embed tiny photos --out full", ("full", "--out")),
    (
        "compare clip --data photos --test photos --budget 8 --out full",
        ("full holds something else", "--out"),
    ),
    ("data show scenes --out empty", ("empty is a folder", "give a file")),
    ("data filter photos --out kept.csv", ("kept.csv", "--out kept.npz")),
    ("export tiny --to onnx", ("lacks --out", "new folder")),
    (
        "train clip --data photos --out x --exportable hg",
        ("target of --exportable 'hg'", "did you mean 'hf'"),
    ),
    # models that cannot do what is asked
    ("detect tiny photos", ("a model with detect, which tiny has not", "cones")),
    ("segment tiny photos", ("no classes", "give --names")),
    (
        "segment tiny photos --names cat,dog --route heads",
        ("no route 'heads'", "tokens and values"),
    ),
    ("segment tiny photos --names cat,dog --out full", ("full exists", "name a new one")),
    ("segment tiny empty --names cat,dog --out x", ("empty",)),
    ("segment tiny photos --names cat,,dog", ("hold an empty one", "name every class")),
    ("draw tiny cat --out x", ("a model with draw, which tiny has not", "cones")),
    ("generate tiny cat", ("a model with generate, which tiny has not", "language_model")),
    ("generate tiny-lm cat --among a.txt", ("reads no images", "leave out --among")),
    ("generate tiny --images photos", ("a model with generate, which tiny has not", "train coca")),
    (
        "evaluate tiny --data scenes --suite answers --by embed --anls",
        ("ANLS compares letters of written answers", "leave out --anls"),
    ),
    ("evaluate tiny --data photos --suite words", ("photos", "boxes")),
    (
        "evaluate tiny --data scenes --suite answers --by classifier --train scenes",
        ("answers by classifier needs a model with fuse", "train coca"),
    ),
    (
        "evaluate tiny --data scenes --suite answers --by embed --relaxed",
        ("relaxed accuracy compares", "leave out --relaxed"),
    ),
    (
        "evaluate tiny --data scenes --suite probe --fit pooler --shots 1",
        ("fit=pooler reads the tokens of images", "leave out shots"),
    ),
    (
        "evaluate tiny --data scenes:pages=2 --suite in_context",
        ("in_context needs a model with generate", "train coca"),
    ),
    ("evaluate tiny --data photos --suite perplexity", ("perplexity needs a model with log_prob",)),
    ("ground tiny nowhere.png cat", ("nowhere.png: there is no such file", "check the path")),
    ("ground tiny a.txt cat --out y.png", ("a.txt is no image", "name a JPEG")),
    (
        "ground tiny photos/00.png cat --reconstruct y.png",
        ("needs a model with reconstruct, which tiny has not", "train sycoca"),
    ),
    ("ground tiny photos/00.png cat --masked 0.5", ("--masked is the share", "--reconstruct")),
    ("ground tiny photos/00.png cat --reconstruct y.jpg", ("does not end in .png",)),
    (
        "classify tiny photos --names a,b --route",
        ("--route needs a model with route, which tiny has not", "diptych train mocoop"),
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_folder(tmp_path_factory.mktemp("bad") / "photos", 4).parent
    for name in ("empty", "full"):
        (path / name).mkdir()
    (path / "full" / "thesis.tex").write_text("mine")
    (path / "a.txt").write_text("a text\n")
    outside = '[{"image": "photos/00.png", "box": [0, 0, 9999, 9]}]'
    (path / "outside.json").write_text(outside)
    (path / "inside.json").write_text(outside.replace("9999", "9"))
    (path / "other.json").write_text(outside.replace("photos/00.png", "cat.jpg"))
    (path / "faces").mkdir()
    (path / "cut.mp4").write_bytes(video(greys(10, 20))[:-9])
    (path / "faces" / "list_attr_celeba.txt").write_text("1\nYoung\n000001.jpg yes\n")
    columns = "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,N"
    (path / "eyes.csv").write_text(f"{columns}\n0,69,Female,,,1\n")
    arrays = ("imgs", "latents_values", "latents_classes")
    np.savez(path / "sprites.npz", **{name: np.array([None]) for name in arrays})
    (path / "a.py").write_text("x = 1\n")
    (path / "broken.yaml").write_text("a: [1,\n")
    (path / "nested.yaml").write_text("method: {scale: 7}\n")
    lists = ["&l0 [" + ",".join(["x"] * 9) + "]"]
    lists += [
        f"&l{n} [{','.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)
    ]  # 9^9 entries in a few lines
    (path / "aliases.yaml").write_text(f"config: {{augment: {{crop: [{', '.join(lists)}]}}}}\n")
    return path


@pytest.mark.parametrize(("line", "parts"), ROWS, ids=[line for line, _ in ROWS])
def test_a_bad_command_is_told_in_one_line(
    line: str,
    parts: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("diptych.cli._screen.PATIENCE", 3600.0)  # however slow the machine is
    before = sorted(folder.rglob("*"))
    code = main(line.split())
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured
    reported = [each for each in captured.err.splitlines() if each.startswith("diptych: ")]
    assert len(reported) == 1, captured.err
    assert captured.err == f"{reported[0]}\n"
    for part in parts:
        assert part in reported[0], reported[0]
    assert sorted(folder.rglob("*")) == before


def test_every_verb_has_a_row() -> None:
    assert {line.split()[0] for line, _ in ROWS} >= set(cli.verbs())
    assert len(ROWS) >= 40
