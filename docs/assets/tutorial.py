from hrfr_fast import TrainSettings, evaluate, open_packed, pack, synthesize, train

if __name__ == "__main__":  # needed: the worker processes of synthesize and pack import this file
    synthesize("data", "tiny")  # a data tree of synthetic faces
    pack("data", "packed", dev_identities=4)  # data tree -> shards
    lowres = open_packed("packed").splits["lowres"]
    print(f"{lowres.samples} faces of {lowres.identities} people, {lowres.size} px")

    settings = TrainSettings(
        regime="lowres32", data="packed", out="run", width=8, embedding_size=16, batch_size=16, steps=10
    )
    result = train(settings)
    print(f"{result.steps} steps, loss {result.loss:.2f}")

    for name, pairs in evaluate("run").items():
        found = pairs.verification
        low, high = found.accuracy_ci
        print(f"{name}: {found.accuracy:.1%} of {found.pairs} pairs (95 % interval {low:.1%} to {high:.1%})")
