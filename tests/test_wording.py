"""Messages of the library in the words of the command line."""

import pytest
import typer.main

from mlff.cli.main import app
from mlff.cli.wording import as_typed, options, repeated

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("a.npz: say units='kcal/mol' or so", "a.npz: say --units 'kcal/mol' or so"),
        ("lengthscale=-2.0 must be positive", "--lengthscale -2.0 must be positive"),
        ("lengthscale: 3 are too few", "--lengthscale: 3 are too few"),
        ("give it, for example Matern52(lengthscale=10.0)", "give it, for example --lengthscale 10.0"),
        ("name it with keys={'energy': …}", "name it with --key energy=…"),
        ("noise=0.1: give noise={'energy': …, 'forces': …}", "--noise 0.1: give --noise energy=… --noise forces=…"),
        ("noise is given for energy", "--noise is given for energy"),
        ("say with labels= that frames may lack it", "say with --labels that frames may lack it"),
        ("index='9:' selects no frames", "--frames '9:' selects no frames"),
        ("seed=-1 must be an integer.", "--seed -1 must be an integer."),
        # what is no argument stays
        ("set pbc=False in the file", "set pbc=False in the file"),
        ("in.extxyz: frame 3 has no forces; the noise of it", "in.extxyz: frame 3 has no forces; the noise of it"),
        ("in.extxyz: labels: none", "in.extxyz: labels: none"),
    ],
)
def test_arguments_become_options(message, expected):
    assert as_typed(message, COMMANDS["fit"]) == expected


def test_every_command_knows_its_own_options():
    message = "steps=5, interval=0 and timestep=0.5 must be positive"
    assert as_typed(message, COMMANDS["md"]) == "--steps 5, --interval 0 and --timestep 0.5 must be positive"
    assert as_typed(message, COMMANDS["fit"]) == message
    assert as_typed(message, None) == message
    assert options(COMMANDS["test"])["keys"] == "--key"


def test_options_without_a_value():
    said = as_typed("x: is full; go on with resume=True, or leave out std=True", COMMANDS["predict"])
    assert said == "x: is full; go on with --resume, or leave out --std"


def test_options_that_are_given_twice():
    fit = COMMANDS["fit"]
    assert repeated(fit, ["fit", "a", "--train", "3", "--train=4"]) == "--train"
    assert repeated(fit, ["fit", "a", "--train", "3", "--test", "4"]) is None
    assert repeated(fit, ["fit", "a", "--noise", "forces=3", "--noise", "energy=4"]) is None  # several are meant
