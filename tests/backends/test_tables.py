"""DataFrames as inputs, scikit-learn estimators as models, and what shap makes of explanations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from frameworks import need

need("torch", "jax")
pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import jax.numpy as jnp
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

import xai_core as xai

CODED, PLAIN = ["colour", "size", "vip"], ["age", "income"]


def people(rows: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(20, 60, rows),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], rows), categories=["S", "M", "L"], ordered=True),
            "vip": rng.random(rows) < 0.4,
            "income": rng.normal(size=rows),
        },
        index=[f"row {i}" for i in range(rows)],
    )


def worth(df):
    return df["age"] / 20 + (df["colour"] == "red") * (df["size"] == "L") * 2 + df["vip"] + df["income"]


@pytest.fixture(scope="module")
def pipeline():
    df = people(200)
    columns = make_column_transformer((OneHotEncoder(), CODED), (StandardScaler(), PLAIN))
    return make_pipeline(columns, RandomForestClassifier(20, random_state=0)).fit(df, worth(df) > 3.5)


def brute(score, x, background):
    """Shapley values of each row of a DataFrame by their formula, with frames mixed by pandas alone."""
    names = list(x.columns)
    count = len(names)
    found = np.zeros(x.shape)
    for row in range(len(x)):
        known = {}
        for size in range(count + 1):
            for members in itertools.combinations(names, size):
                mixed = background.copy()
                for name in members:
                    mixed[name] = pd.Series([x[name].iloc[row]] * len(mixed), mixed.index).astype(x[name].dtype)
                known[frozenset(members)] = score(mixed, row)
        for place, name in enumerate(names):
            for members, value in known.items():
                if name not in members:
                    weight = math.factorial(len(members)) * math.factorial(count - len(members) - 1)
                    gain = known[members | {name}] - value
                    found[row, place] += weight / math.factorial(count) * gain
    return found


def test_pipeline_on_mixed_columns_equals_the_formula_on_frames(pipeline):
    x, background = people(3, 1), people(7, 2)
    e = xai.ExactSHAP(background=background)(pipeline, x)
    target = pipeline.predict_proba(x).argmax(axis=1)
    expected = brute(lambda df, row: pipeline.predict_proba(df)[:, target[row]].mean(), x, background)
    assert isinstance(e.values, pd.DataFrame)
    assert list(e.values.columns) == list(x.columns)
    assert list(e.values.index) == list(x.index)
    np.testing.assert_allclose(e.values.to_numpy(), expected, atol=1e-12)
    assert e.features.names == tuple(x.columns)
    assert e.inputs is x
    np.testing.assert_array_equal(e.target, target)


def test_baseline_by_column_equals_the_formula(pipeline):
    x, row = people(3, 1), people(1, 3)
    target = pipeline.predict_proba(x).argmax(axis=1)
    expected = brute(lambda df, i: pipeline.predict_proba(df)[:, target[i]].mean(), x, row)
    shuffled = row[row.columns[::-1]]
    for baseline in (row, shuffled, row.iloc[0], dict(row.iloc[0]), lambda df: row):
        e = xai.ExactSHAP(baseline=baseline)(pipeline, x)
        np.testing.assert_allclose(e.values.to_numpy(), expected, atol=1e-12)


def test_models_get_the_dtypes_they_were_given():
    seen = []

    def model(df):
        seen.append(df)
        return df["age"].to_numpy() + np.where(df["colour"] == "red", 1.0, 0.0) + df["small"].to_numpy().astype(float)

    x = people(4, 1).assign(
        small=np.arange(4, dtype="uint8"),
        when=pd.to_datetime(["2020-01-01", "2021-02-03", None, "2020-01-01"]),
        odd=pd.Series([1, "1", None, True], index=[f"row {i}" for i in range(4)], dtype=object),
        whole=pd.array([1, 2, 3, 4], dtype="Int64"),
        sparse=pd.arrays.SparseArray([0.0, 1.0, 0.0, 2.0]),
        half=np.ones(4, dtype="float32"),
    )
    e = xai.KernelSHAP(background=x.iloc[::-1])(model, x)
    assert seen
    for df in seen:
        assert df.dtypes.equals(x.dtypes)
    first = seen[0].set_axis(x.index)
    pd.testing.assert_frame_equal(first, x)
    assert [type(item) for item in first["odd"]] == [int, str, type(None), bool]
    np.testing.assert_allclose(e.values[["when", "odd", "whole", "sparse", "half", "income"]], 0.0, atol=1e-12)


def test_integers_are_filled_with_what_is_none():
    seen = []

    def model(df):
        seen.append(df)
        return df["n"].to_numpy() * 2.0

    x = pd.DataFrame({"n": np.array([3, 4], dtype="uint8"), "other": [1.0, 2.0]})
    e = xai.ExactSHAP(baseline={"n": 0.5, "other": 0.0})(model, x)
    np.testing.assert_allclose(e.values["n"], [5.0, 7.0])
    e = xai.ExactSHAP(baseline={"n": -1, "other": 0.0})(model, x)
    np.testing.assert_allclose(e.values["n"], [8.0, 10.0])
    assert {str(df["n"].dtype) for df in seen} == {"uint8", "float64"}


def test_categories_that_only_the_background_has():
    x, background = people(3, 1), people(6, 2)
    background["colour"] = "black"
    background["size"] = pd.Categorical(["XL"] * 6)
    seen = []

    def model(df):
        seen.append(df)
        return (df["colour"] == "black").to_numpy() * 1.0 + (df["size"] == "XL").to_numpy() * 2.0

    e = xai.ExactSHAP(background=background)(model, x)
    np.testing.assert_allclose(e.values["colour"], -1.0)
    np.testing.assert_allclose(e.values["size"], -2.0)
    assert list(seen[-1]["size"].dtype.categories) == ["S", "M", "L", "XL"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, xai.BaselineError, ("'colour'", "background=", "baseline={'colour': 'red', ...}")),
        ({"baseline": 1.0}, xai.BaselineError, ("'colour'",)),
        ({"baseline": xai.Mean()}, xai.BaselineError, ("'colour'",)),
        ({"baseline": np.zeros(5)}, xai.BaselineError, ("'colour'",)),
        ({"baseline": {"age": 1}}, xai.BaselineError, ("without 'colour', 'size', 'vip', 'income'",)),
        (
            {"baseline": {"age": "old", "colour": "red", "size": "S", "vip": True, "income": 0.0}},
            xai.BaselineError,
            ("'age'", "numbers"),
        ),
        (
            {"baseline": {"age": 1, "colour": "red", "size": "S", "vip": "yes", "income": 0.0}},
            xai.BaselineError,
            ("'vip'", "another kind"),
        ),
        ({"background": people(4).assign(y=1)}, xai.BaselineError, ("besides 'y'", "background[x.columns]")),
        ({"background": people(4).drop(columns="vip")}, xai.BaselineError, ("without 'vip'",)),
        ({"background": np.zeros((4, 5))}, xai.BaselineError, ("DataFrame",)),
        ({"background": people(4).assign(income=np.inf)}, xai.NonFiniteError, ("'income'", "infinite")),
    ],
)
def test_what_does_not_fit_a_frame(pipeline, options, error, words):
    x = people(3, 1)
    x["colour"] = "red"
    with pytest.raises(error) as caught:
        xai.ExactSHAP(**options)(pipeline, x)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), xai.InputError, ("'a' more than once",)),
        (pd.DataFrame({"a": [1.0, np.inf]}), xai.NonFiniteError, ("'a'", "infinite")),
        (pd.DataFrame({"a": [2**60, 1], "b": [0.0, 1.0]}), xai.InputError, ("'a'", "astype(str)")),
        (pd.DataFrame({"a": [[1], [2]]}), xai.InputError, ("'a'", "hashable")),
        (pd.DataFrame({"a": [1.0, 2.0]}).iloc[0], xai.InputError, ("df.iloc[[0]]",)),
    ],
)
def test_frames_that_cannot_be_explained(x, error, words):
    with pytest.raises(error) as caught:
        xai.FeatureAblation()(lambda df: np.zeros(len(df)), x)
    for word in words:
        assert word in str(caught.value)


# --- missing numbers


def gaps(rows, seed=0):
    """Numbers of which some are missing, in plain columns and in one that holds whole numbers or nothing."""
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows)})
    found["n"] = pd.array(rng.integers(0, 9, rows), dtype="Int64")
    return found.mask(rng.random(found.shape) < 0.3)


@pytest.fixture(scope="module")
def imputing():
    df = gaps(300)
    worth = 2 * df["a"].fillna(1) - df["b"].fillna(0) + df["n"].astype("float64").fillna(3)
    return make_pipeline(SimpleImputer(add_indicator=True), LinearRegression()).fit(df, worth)


def test_missing_numbers_reach_a_model_that_takes_them(imputing):
    x, background = gaps(4, 1), gaps(6, 2)
    assert x.isna().to_numpy().any()
    assert background.isna().to_numpy().any()
    seen = []

    def model(df):
        seen.append(df)
        return imputing.predict(df)

    wanted = brute(lambda df, row: imputing.predict(df).mean(), x, background)
    for given in (model, imputing):
        for method in (xai.ExactSHAP, xai.KernelSHAP):
            np.testing.assert_allclose(method(background=background)(given, x).values, wanted, atol=1e-9)
    full, lost = imputing.predict(x), np.empty(x.shape)
    for place, name in enumerate(x):
        without = x.copy()
        without[name] = pd.Series([np.nan] * len(x)).astype(x[name].dtype)
        lost[:, place] = full - imputing.predict(without)
    for method in (xai.FeatureAblation, xai.Occlusion):
        for baseline in (np.nan, dict.fromkeys(x, np.nan), dict.fromkeys(x)):
            np.testing.assert_allclose(method(baseline=baseline)(model, x).values, lost, atol=1e-12)
    twice = x.iloc[[0, 0]].reset_index(drop=True)
    assert not np.asarray(xai.FeaturePermutation()(imputing, twice).values).any()
    assert len(seen) > 4
    for df in seen:
        assert df.dtypes.equals(x.dtypes)


def test_missing_numbers_are_refused_where_something_is_computed_of_them(imputing):
    x = gaps(4, 1)
    for method in (xai.LIME(background=gaps(6, 2)), xai.SobolAttribution(), xai.SmoothGrad(xai.Occlusion())):
        with pytest.raises(xai.NonFiniteError, match=r"'\w' of `x` has missing.*\n.*KernelSHAP"):
            method(imputing, x)
    for baseline in (xai.Mean(), xai.Noise()):
        with pytest.raises(xai.BaselineError, match="values are missing"):
            xai.KernelSHAP(baseline=baseline)(imputing, x)
    for frame in (x.fillna(0), x.fillna(0).astype("float64")):
        with pytest.raises(xai.NonFiniteError, match="'a' of `x` has infinite"):
            xai.KernelSHAP()(imputing, frame.assign(a=np.inf))
    net = torch.nn.Linear(3, 1).eval()
    with pytest.raises(xai.NonFiniteError, match="of `x` has missing"):
        xai.KernelSHAP()(net, x)
    with pytest.raises(xai.NonFiniteError, match="of `background` has missing"):
        xai.KernelSHAP(background=x)(net, x.fillna(0))
    with pytest.raises(xai.BaselineError, match="finite"):
        xai.KernelSHAP(baseline=np.nan)(net, x.fillna(0))


def test_targets_may_be_a_series(pipeline):
    x, background = people(4, 1), people(6, 2)
    rows = [1, 0, 0, 1]
    net = torch.nn.Linear(2, 3).eval()
    jax_net = xai.wrap(lambda v: jnp.stack([v[:, 0], v[:, 1], v.sum(1)], axis=1), backend="jax")
    for series in (pd.Series(rows, x.index), pd.Series(rows, x.index, dtype="Int64"), pd.Series(rows, dtype="uint8")):
        for method, model, given in (
            (xai.ExactSHAP(background=background), pipeline, x),
            (xai.Gradient(), net, torch.randn(4, 2)),
            (xai.ExactSHAP(), net, x[PLAIN]),
            (xai.Gradient(), jax_net, jnp.ones((4, 2))),
        ):
            found, wanted = (method(model, given, target=target) for target in (series, rows))
            np.testing.assert_array_equal(np.asarray(found.values), np.asarray(wanted.values))
            np.testing.assert_array_equal(np.asarray(found.target), rows)
    for wrong in (pd.Series([1, 0, None, 1]), pd.Series(rows[:3])):
        with pytest.raises(xai.TargetError, match="4 ints"):
            xai.Gradient()(net, torch.randn(4, 2), target=wrong)


def test_numbers_between_categories_are_refused():
    x = people(3, 1)

    class Between(xai.Baseline):
        def make(self, problem, position):
            return problem.leaves[position] + 0.5

    with pytest.raises(xai.BaselineError):
        xai.Occlusion(baseline=Between())(lambda df: worth(df).to_numpy(), x)
    from xai_core.frames import Frame

    frame = Frame(x, "x")
    codes = frame.encode(x, "x")
    with pytest.raises(xai.CapabilityError, match="'colour'"):
        frame.decode(codes + 0.5)
    with pytest.raises(xai.CapabilityError, match="'colour'"):
        frame.decode(codes + 100)


def test_models_that_ignore_categories_and_all_else_are_told():
    x, background = people(5, 1), people(5, 2)
    with pytest.raises(xai.InputDependenceError):
        xai.KernelSHAP(background=background)(lambda df: np.full(len(df), 0.5), x)
    # Models that read a column, though these samples have nothing to lose by it.
    for kept in (x.iloc[:1], x):
        same = kept.assign(colour="red")
        e = xai.KernelSHAP(background=same)(lambda df: (df["colour"] == "red").to_numpy() * 1.0, same)
        assert not e.values.to_numpy().any()
    twice = x.iloc[[0, 0]].assign(colour=["red", "blue"])
    e = xai.KernelSHAP(background=twice)(lambda df: (df["age"] > 1000).to_numpy() + df["income"].to_numpy(), twice)
    np.testing.assert_allclose(e.values, 0.0, atol=1e-12)


# --- estimators


def test_estimators_are_called_for_scores():
    rng = np.random.default_rng(0)
    x, background = rng.normal(size=(3, 3)), rng.normal(size=(5, 3))
    data = rng.normal(size=(80, 3))
    labels = (data.sum(axis=1) > 0).astype(int)
    shap = xai.ExactSHAP(background=background)
    for model, score in (
        (LinearSVC().fit(data, labels), "decision_function"),
        (SVC().fit(data, labels), "decision_function"),
        (CalibratedClassifierCV(LinearSVC(), cv=2).fit(data, labels), "predict_proba"),
        (LogisticRegression().fit(data, labels), "predict_proba"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2).fit(data, labels), "predict_proba"),
        (GridSearchCV(LinearSVC(), {"C": [1.0]}, cv=2).fit(data, labels), "decision_function"),
        (make_pipeline(StandardScaler(), LinearSVC()).fit(data, labels), "decision_function"),
        (LinearRegression().fit(data, data[:, 0] * 3), "predict"),
        (LinearRegression().fit(data, data[:, :1] * 3), "predict"),
        (GridSearchCV(LinearRegression(), {"fit_intercept": [True]}, cv=2).fit(data, data[:, 0]), "predict"),
    ):
        outputs = getattr(model, score)(x)
        e = shap(model, x)
        np.testing.assert_allclose(e.score, outputs.reshape(3, -1).max(axis=1), rtol=1e-12)
        np.testing.assert_allclose(e.residual, 0.0, atol=1e-12)
        assert np.abs(e.values).max() > 1e-3


def test_regression_has_the_values_of_its_coefficients():
    data = people(60)[PLAIN]
    model = LinearRegression().fit(data, 2 * data["age"] - 3 * data["income"])
    x, background = people(4, 1)[PLAIN], people(9, 2)[PLAIN]
    e = xai.KernelSHAP(background=background)(model, x)
    expected = (x - background.mean()) * [2.0, -3.0]
    pd.testing.assert_frame_equal(e.values, expected)
    np.testing.assert_allclose(e.score, model.predict(x))


def test_classifiers_without_scores_are_refused():
    data = np.random.default_rng(0).normal(size=(60, 3))
    model = VotingClassifier([("a", LogisticRegression())], voting="hard").fit(data, (data[:, 0] > 0) * 1.0)
    with pytest.raises(xai.ModelError, match=r"VotingClassifier.*labels alone"):
        xai.ExactSHAP()(model, data[:2])


class Boosted:
    """The interface of xgboost's estimators, which do not derive from those of scikit-learn."""

    def __init__(self, names):
        self.n_features_in_ = 2
        self.seen = set()
        self._names = names

    def get_params(self, deep=True):
        return {}

    def predict(self, x):
        self.seen.add(type(x))
        return np.asarray(x, dtype="float64")[:, 0]

    @property
    def feature_names_in_(self):
        if self._names is None:
            raise AttributeError("feature_names_in_")
        return self._names


@pytest.mark.parametrize("names", [None, np.array(["age", "income"])])
def test_estimators_get_names_if_they_were_fitted_with_some(names):
    model = Boosted(names)
    x = people(3)[PLAIN]
    for given in (x, x.to_numpy()):
        e = xai.FeatureAblation()(model, given)
        np.testing.assert_allclose(np.asarray(e.values)[:, 0], x["age"])
        assert type(e.values) is type(given)
    assert model.seen == {np.ndarray if names is None else pd.DataFrame}


def test_scikit_learn_has_nothing_to_warn_of():
    """Warnings are errors in all tests."""
    data = people(60)[PLAIN]
    labels = data["income"] > 0
    named, plain = LogisticRegression().fit(data, labels), LogisticRegression().fit(data.to_numpy(), labels)
    results = [
        np.asarray(xai.ExactSHAP()(model, x).values)
        for model in (named, plain, named.predict_proba, plain.predict_proba)
        for x in (data[:3], data[:3].to_numpy())
    ]
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], atol=1e-9)


def test_unfitted_estimators_are_named():
    with pytest.raises(xai.ModelError, match="not fitted"):
        xai.ExactSHAP()(LogisticRegression(), people(3)[PLAIN])


# --- frameworks


def test_framework_models_get_float32():
    weights = np.array([[2.0, 1.0], [-3.0, 0.5]], dtype="float32")
    linear = torch.nn.Linear(2, 2, bias=False).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights.T))
    x, background = people(4, 1)[PLAIN], people(9, 2)[PLAIN]
    expected = x * weights[:, 0]
    for model in (linear, xai.wrap(lambda v: v @ jnp.asarray(weights), backend="jax")):
        for explainer in (xai.InputXGradient(), xai.IntegratedGradients(), xai.ExactSHAP(), xai.FeatureAblation()):
            e = explainer(model, x, target=0)
            assert (e.values.dtypes == "float32").all()
            pd.testing.assert_frame_equal(e.values, expected.astype("float32"), rtol=1e-5)
            assert isinstance(e.score, np.ndarray)
        e = xai.ExpectedGradients(background=background, samples=9)(model, x, target=0)
        centred = (x - background.mean()) * weights[:, 0]
        pd.testing.assert_frame_equal(e.values, centred.astype("float32"), rtol=1e-4)
        scores = xai.wrap(model)(x)
        np.testing.assert_allclose(scores, x.to_numpy() @ weights, rtol=1e-5)


def test_framework_models_take_numbers_alone():
    with pytest.raises(xai.InputError, match=r"'colour', 'size', 'vip'"):
        xai.FeatureAblation()(torch.nn.Linear(5, 2).eval(), people(3))


def test_frames_in_a_dict_with_arrays():
    x = {"table": people(3, 1), "extra": np.arange(6.0).reshape(3, 2)}

    def model(x):
        return worth(x["table"]).to_numpy() + x["extra"] @ np.array([1.0, 10.0])

    row = people(1, 2).iloc[0]
    e = xai.ExactSHAP(baseline={"table": row, "extra": 1.0})(model, x)
    np.testing.assert_allclose(e.values["extra"], (x["extra"] - 1.0) * [1.0, 10.0], atol=1e-9)
    np.testing.assert_allclose(e.values["table"]["age"], (x["table"]["age"] - row["age"]) / 20, atol=1e-9)
    assert e.features.names[0] == "x['table'] age"
    assert e.features.names[-1] == "x['extra'] feature 1"
    with pytest.raises(xai.BaselineError, match="structure"):
        xai.ExactSHAP(baseline={"table": row})(model, x)


def test_groups_by_name_and_all_outputs(pipeline):
    x, background = people(3, 1), people(6, 2)
    groups = xai.Groups({"person": ["age", "income", "vip"], "shirt": ["colour", "size"]})
    e = xai.ExactSHAP(features=groups, background=background)(pipeline, x, target="all")
    assert e.features.names == ("person", "shirt")
    assert isinstance(e.values, np.ndarray)
    assert e.values.shape == (3, 5, 2)
    np.testing.assert_allclose(e.values.sum(axis=1), e.features.values.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(e.values[..., 0], -e.values[..., 1], atol=1e-12)


def test_batch_size_changes_nothing(pipeline):
    x, background = people(3, 1), people(6, 2)
    found = [
        xai.PermutationSHAP(background=background, samples=60)(xai.wrap(pipeline, batch_size=size), x).values
        for size in (1, 7, 1000)
    ]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)


def test_saved_frames_come_back(tmp_path, pipeline):
    x, background = people(4, 1), people(6, 2)
    x["when"] = pd.to_datetime(["2020-01-01"] * 4).tz_localize("UTC")
    x["word"] = pd.Series(["a", None, "b", "c"], index=x.index, dtype=object)
    background = background.assign(when=x["when"].iloc[0], word="z").astype({"when": x["when"].dtype, "word": object})
    explainer = xai.KernelSHAP(background=background)
    e = explainer(lambda df: pipeline.predict_proba(df.drop(columns=["when", "word"])), x)
    e.save(tmp_path / "e.npz")
    back = xai.load(tmp_path / "e.npz")
    pd.testing.assert_frame_equal(back.values, e.values)
    pd.testing.assert_frame_equal(back.inputs, x)
    assert back.features.names == tuple(x.columns)
    assert back.explainer == explainer
    assert explainer == xai.KernelSHAP(background=background.copy())
    assert explainer != xai.KernelSHAP(background=background[:2])
    assert back.plot(samples=1).axes[0].get_yticklabels()[-1].get_text() in x.columns


# --- shap


@pytest.fixture
def shap():
    import matplotlib.pyplot as plt

    yield pytest.importorskip("shap")
    plt.close("all")


@pytest.mark.filterwarnings("default")
def test_shap_draws_tables(shap, pipeline):
    x, background = people(12, 1), people(6, 2)
    e = xai.ExactSHAP(background=background)(pipeline, x, target=1)
    s = e.to_shap()
    np.testing.assert_allclose(s.values, e.values)
    empty = pipeline.predict_proba(background)[:, 1].mean()
    np.testing.assert_allclose(s.base_values, empty, atol=1e-12)
    assert s.feature_names == list(x.columns)
    assert s.data[3, 1] == x["colour"].iloc[3]
    shap.plots.waterfall(s[0], show=False)
    shap.plots.bar(s, show=False)
    shap.plots.beeswarm(s, show=False)
    s = xai.ExactSHAP(background=background)(pipeline, x, target="all").to_shap(output_names=["no", "yes"])
    assert s.shape == (12, 5, 2)
    assert s.output_names == ["no", "yes"]
    np.testing.assert_allclose(s.base_values[:, 1], empty, atol=1e-12)
    shap.plots.beeswarm(s[:, :, 1], show=False)
    with pytest.raises(xai.InputError, match="one name per output: 2"):
        xai.ExactSHAP(background=background)(pipeline, x, target="all").to_shap(output_names=["no"])
    shap.plots.waterfall(s[0, :, 1], show=False)


@pytest.mark.filterwarnings("default")
def test_shap_draws_images(shap):
    x = np.random.default_rng(0).random((2, 3, 8, 8)).astype("float32")
    model = xai.wrap(lambda x: x[:, :, :4].mean(axis=(1, 2, 3)), channel_axis=1)
    e = xai.ExactSHAP(features=xai.Patches(4))(model, x)
    s = e.to_shap()
    np.testing.assert_allclose(s.values, e.features.values)
    np.testing.assert_allclose(s.data[:, 0], x[:, :, :4, :4].mean(axis=(1, 2, 3)), rtol=1e-5)
    shap.plots.waterfall(s[0], show=False)
    s = e.to_shap(elements=True)
    np.testing.assert_allclose(s.values, np.moveaxis(e.values, 1, -1))
    np.testing.assert_allclose(s.data, np.moveaxis(x, 1, -1))
    shap.plots.image(s, show=False)
    occluded = xai.Occlusion(window=4, stride=4)(model, x).to_shap()
    assert occluded.shape == (2, 8, 8, 3)
    shap.plots.image(occluded, show=False)


@pytest.mark.filterwarnings("default")
def test_shap_draws_texts(shap):
    ids = np.array([[3, 4, 5, 0], [1, 2, 3, 4]])
    e = xai.ExactSHAP()(lambda x: (x**2).sum(axis=1).astype("float64"), ids)
    s = e.to_shap(names=lambda i: f"word {i} ")
    assert s.data.tolist()[0] == ["word 3 ", "word 4 ", "word 5 ", "word 0 "]
    np.testing.assert_allclose(s.values, ids**2, atol=1e-12)
    assert "word 5" in shap.plots.text(s, display=False)
    embedding = torch.nn.Embedding(6, 2)
    net = torch.nn.Sequential(embedding, torch.nn.Flatten(), torch.nn.Linear(8, 1)).eval()
    s = xai.InputXGradient(layer="0")(net, ids).to_shap(names=[["a", "b", "c"], ["d", "e", "f", "g"]])
    assert s.shape == (2, 4)
    assert s.data.tolist() == [["a", "b", "c", ""], ["d", "e", "f", "g"]]
    assert "f" in shap.plots.text(s, display=False)
