"""FLAML on the files that its one argument (JSON) names. Runs in a venv of its own."""

import json
import sys

import pandas as pd
from flaml import AutoML


def read(path: str, numeric: list[str]) -> pd.DataFrame:
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    for column in rows.columns:
        if column in numeric:
            rows[column] = pd.to_numeric(rows[column], errors="coerce").astype(float)
    return rows


def main() -> None:
    order = json.loads(sys.argv[1])
    train, rows = read(order["train"], order["numeric"]), read(order["rows"], order["numeric"])
    target = train.pop(order["target"])
    model = AutoML()
    model.fit(
        train,
        target if order["classify"] else target.astype(float),
        task="classification" if order["classify"] else "regression",
        metric="log_loss" if order["classify"] else "rmse",
        time_budget=order["budget_s"],
        n_jobs=order["threads"],
        seed=order["seed"],
        verbose=0,
    )
    if order["classify"]:
        predicted = pd.DataFrame(model.predict_proba(rows), columns=model.classes_)
    else:
        predicted = pd.DataFrame({"prediction": model.predict(rows)})
    predicted.to_csv(order["out"], index=False)


if __name__ == "__main__":
    main()
