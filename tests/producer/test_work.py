"""What the log says of an engine's work."""

from penstock.producer.work import Work


def test_nothing_made_is_said_plainly() -> None:
    assert Work().describe() == "no image"


def test_rates_are_per_second_of_work_and_shares_of_what_the_device_reaches() -> None:
    work = Work(images=200, flops=4e14, matrix_flops_per_s=1e14, seconds=10.0, diversity=0.734)
    assert work.describe() == (
        "200 images in 10 s of work: 20 images/s, 2 TFLOP an image, 40 TFLOP/s "
        "(40% of what matrix products reach here); diversity within prompts 0.73"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert Work(images=3, seconds=2.0).describe() == "3 images in 2 s of work: 1.5 images/s"
