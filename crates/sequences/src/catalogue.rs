//! The scenarios of this crate.

use crate::faces::Person;
use crate::faces::Person::{Curls, LeftWoman, MiddleWoman, RightWoman, Single, Sunglasses};
use crate::motion::{Camera, CameraKey, Jump, Key};
use crate::scenario::{Actor, Layer, Pillar, Scenario, Timing};

const fn face(person: Person, path: &'static [Key]) -> Layer {
    Layer::Face(Actor { person, path, bob: 0.0 })
}

/// A face that bobs by 3 % of its height.
const fn walker(person: Person, path: &'static [Key]) -> Layer {
    Layer::Face(Actor { person, path, bob: 0.03 })
}

/// A key: time in seconds, centre, height.
const fn at(time: f64, x: f64, y: f64, size: f64) -> Key {
    Key::new(time, x, y, size)
}

const fn camera(time: f64, x: f64, y: f64) -> CameraKey {
    CameraKey { time, x, y }
}

/// What most scenarios have in common.
const BASE: Scenario = Scenario {
    name: "",
    description: "",
    width: 640,
    height: 360,
    frame_rate: 30,
    periods: 0,
    timing: Timing::Regular,
    layers: &[],
    camera: Camera::STILL,
    noise: 1,
};

/// The scenario with that name; `None` if there is none.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// All scenarios of this crate: 640x360, 4 to 10 seconds long.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "crossing",
        description: "Two faces cross twice; the nearer one hides most of the other",
        periods: 210,
        layers: &[
            face(LeftWoman, &[at(0.0, 120.0, 175.0, 100.0), at(3.4, 530.0, 185.0, 96.0), at(7.0, 110.0, 190.0, 100.0)]),
            face(
                MiddleWoman,
                &[at(0.0, 530.0, 190.0, 112.0), at(3.4, 105.0, 195.0, 110.0), at(7.0, 540.0, 165.0, 112.0).roll(4.0)],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "meet",
        description: "Two faces meet, overlap a little, stop and go back the way they came",
        periods: 180,
        layers: &[
            face(
                Sunglasses,
                &[
                    at(0.0, 90.0, 170.0, 100.0),
                    at(2.5, 290.0, 170.0, 104.0),
                    at(3.5, 290.0, 170.0, 104.0),
                    at(6.0, 90.0, 180.0, 100.0),
                ],
            ),
            face(
                RightWoman,
                &[
                    at(0.0, 560.0, 190.0, 100.0),
                    at(2.5, 358.0, 190.0, 104.0),
                    at(3.5, 358.0, 190.0, 104.0),
                    at(6.0, 560.0, 180.0, 100.0),
                ],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "crowd",
        description: "Six faces wander and cross each other",
        periods: 300,
        layers: &[
            face(
                Curls,
                &[
                    at(0.0, 70.0, 80.0, 62.0),
                    at(3.0, 330.0, 100.0, 64.0).roll(-5.0),
                    at(6.0, 560.0, 80.0, 62.0).roll(3.0),
                    at(10.0, 200.0, 90.0, 60.0),
                ],
            ),
            face(
                Sunglasses,
                &[
                    at(0.0, 560.0, 100.0, 66.0),
                    at(4.0, 260.0, 110.0, 70.0).roll(-4.0),
                    at(7.0, 90.0, 150.0, 74.0),
                    at(10.0, 300.0, 170.0, 74.0).roll(4.0),
                ],
            ),
            face(
                LeftWoman,
                &[
                    at(0.0, 300.0, 170.0, 80.0),
                    at(2.5, 180.0, 190.0, 80.0).roll(5.0),
                    at(5.0, 400.0, 180.0, 78.0),
                    at(10.0, 540.0, 150.0, 76.0).roll(-5.0),
                ],
            ),
            face(
                RightWoman,
                &[
                    at(0.0, 480.0, 230.0, 86.0),
                    at(3.0, 540.0, 200.0, 86.0).roll(-6.0),
                    at(7.0, 330.0, 230.0, 90.0),
                    at(10.0, 420.0, 260.0, 88.0),
                ],
            ),
            face(
                Single,
                &[
                    at(0.0, 120.0, 250.0, 96.0).roll(4.0),
                    at(4.0, 300.0, 260.0, 98.0),
                    at(6.0, 480.0, 270.0, 96.0).roll(-4.0),
                    at(10.0, 560.0, 280.0, 96.0),
                ],
            ),
            face(
                MiddleWoman,
                &[
                    at(0.0, 320.0, 290.0, 100.0),
                    at(3.5, 90.0, 270.0, 100.0).roll(5.0),
                    at(6.5, 200.0, 250.0, 102.0),
                    at(10.0, 80.0, 260.0, 100.0).roll(-3.0),
                ],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "occlusion",
        description: "A face passes behind a pillar, hidden for 0.6 s each way; another one stays beside it",
        periods: 270,
        layers: &[
            face(
                LeftWoman,
                &[
                    at(0.0, 90.0, 220.0, 90.0),
                    at(1.0, 190.0, 220.0, 90.0),
                    at(4.0, 490.0, 215.0, 90.0),
                    at(4.8, 550.0, 215.0, 90.0),
                    at(5.6, 490.0, 215.0, 90.0),
                    at(8.6, 190.0, 220.0, 90.0),
                    at(9.0, 160.0, 220.0, 90.0),
                ],
            ),
            face(Curls, &[at(0.0, 560.0, 90.0, 76.0)]),
            Layer::Pillar(Pillar { x: 276.0, width: 128.0 }),
        ],
        ..BASE
    },
    Scenario {
        name: "enter-leave",
        description: "Faces enter and leave at all edges; between 3.6 and 4.2 s there is none",
        periods: 240,
        layers: &[
            face(Sunglasses, &[at(0.4, -60.0, 130.0, 84.0), at(1.8, 250.0, 140.0, 84.0), at(3.5, 720.0, 120.0, 86.0)]),
            face(
                LeftWoman,
                &[at(0.8, 440.0, -70.0, 90.0), at(2.0, 420.0, 180.0, 90.0).roll(4.0), at(3.4, 380.0, 440.0, 92.0)],
            ),
            face(RightWoman, &[at(4.3, 720.0, 150.0, 90.0), at(6.0, 330.0, 170.0, 92.0), at(7.5, -80.0, 170.0, 92.0)]),
            face(
                MiddleWoman,
                &[at(5.0, 180.0, 450.0, 96.0), at(6.2, 190.0, 240.0, 96.0), at(8.0, 210.0, 200.0, 96.0).roll(-4.0)],
            ),
            face(Curls, &[at(5.2, 560.0, 440.0, 80.0), at(6.2, 540.0, 200.0, 80.0), at(7.8, 500.0, -80.0, 78.0)]),
        ],
        ..BASE
    },
    Scenario {
        name: "approach",
        description: "A face comes near, from 24 to 200 pixels, and goes away again",
        periods: 240,
        layers: &[walker(
            Single,
            &[at(0.0, 250.0, 150.0, 24.0), at(4.0, 330.0, 185.0, 200.0), at(8.0, 400.0, 150.0, 24.0)],
        )],
        ..BASE
    },
    Scenario {
        name: "pan",
        description: "The camera accelerates to 260 px/s and comes back, over faces that stand and one that walks",
        periods: 270,
        layers: &[
            face(MiddleWoman, &[at(0.0, 250.0, 190.0, 92.0)]),
            face(Curls, &[at(0.0, 600.0, 120.0, 70.0)]),
            face(RightWoman, &[at(0.0, 1150.0, 190.0, 96.0)]),
            walker(LeftWoman, &[at(0.0, 430.0, 200.0, 88.0), at(9.0, 960.0, 200.0, 88.0)]),
        ],
        camera: Camera {
            path: &[
                camera(0.0, 0.0, 0.0),
                camera(0.8, 0.0, 0.0),
                camera(4.0, 640.0, 16.0),
                camera(5.2, 720.0, 20.0),
                camera(9.0, 60.0, -8.0),
            ],
            jumps: &[],
        },
        ..BASE
    },
    Scenario {
        name: "shake",
        description: "The camera jumps by the width of a face at single instants",
        periods: 195,
        layers: &[
            face(MiddleWoman, &[at(0.0, 220.0, 170.0, 96.0)]),
            face(Single, &[at(0.0, 420.0, 190.0, 100.0), at(6.5, 470.0, 170.0, 100.0).roll(3.0)]),
        ],
        camera: Camera {
            path: &[],
            jumps: &[
                Jump { time: 1.5, x: 74.0, y: 0.0 },
                Jump { time: 2.7, x: -74.0, y: 0.0 },
                Jump { time: 3.6, x: 0.0, y: -70.0 },
                Jump { time: 4.5, x: -74.0, y: 70.0 },
                Jump { time: 5.6, x: 74.0, y: 30.0 },
            ],
        },
        ..BASE
    },
    Scenario {
        name: "low-rate",
        description: "Three people walk at 5 frames per second",
        frame_rate: 5,
        periods: 45,
        layers: &[
            walker(Curls, &[at(0.0, 80.0, 110.0, 56.0), at(5.0, 560.0, 120.0, 58.0), at(9.0, 300.0, 130.0, 60.0)]),
            walker(Sunglasses, &[at(0.0, 380.0, 130.0, 44.0), at(9.0, 300.0, 230.0, 110.0)]),
            walker(
                RightWoman,
                &[at(0.0, 590.0, 230.0, 72.0), at(4.5, 120.0, 245.0, 74.0), at(9.0, 540.0, 250.0, 76.0)],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "fast",
        description: "A face moves by half of its width per frame, at 10 frames per second",
        frame_rate: 10,
        periods: 68,
        layers: &[
            face(Curls, &[at(0.0, 520.0, 90.0, 66.0), at(6.8, 440.0, 90.0, 66.0)]),
            face(
                MiddleWoman,
                &[
                    at(0.0, 65.0, 210.0, 80.0),
                    at(0.2, 110.0, 212.0, 80.0),
                    at(1.5, 510.0, 225.0, 80.0),
                    at(1.7, 545.0, 230.0, 80.0),
                    at(1.9, 510.0, 235.0, 80.0),
                    at(3.2, 110.0, 250.0, 80.0),
                    at(3.4, 75.0, 250.0, 80.0),
                    at(3.6, 110.0, 250.0, 80.0),
                    at(4.9, 510.0, 230.0, 80.0),
                    at(5.1, 545.0, 225.0, 80.0),
                    at(5.3, 510.0, 220.0, 80.0),
                    at(6.8, 50.0, 200.0, 80.0),
                ],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "dropped",
        description: "Frames are missing: gaps of 67 to 400 ms while two faces move",
        periods: 210,
        timing: Timing::Dropped(&[(30, 31), (52, 55), (80, 86), (110, 121), (140, 141), (142, 143), (150, 161)]),
        layers: &[
            face(
                LeftWoman,
                &[at(0.0, 100.0, 140.0, 88.0), at(2.4, 300.0, 150.0, 90.0), at(7.0, 540.0, 130.0, 90.0).roll(4.0)],
            ),
            face(
                Single,
                &[at(0.0, 540.0, 240.0, 96.0), at(3.5, 330.0, 230.0, 98.0), at(7.0, 110.0, 240.0, 96.0).roll(-3.0)],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "variable",
        description: "The time between two frames varies from 20 to 120 ms while two faces move",
        frame_rate: 20,
        periods: 140,
        timing: Timing::Uneven(&[33, 33, 50, 20, 67, 120, 40, 25, 33, 100, 20, 60, 48]),
        layers: &[
            face(
                RightWoman,
                &[at(0.0, 110.0, 230.0, 92.0), at(3.5, 420.0, 235.0, 92.0).roll(-4.0), at(7.0, 150.0, 230.0, 92.0)],
            ),
            face(
                Sunglasses,
                &[at(0.0, 520.0, 110.0, 78.0), at(3.0, 250.0, 100.0, 76.0), at(7.0, 500.0, 120.0, 78.0).roll(3.0)],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "still",
        description: "A face does not move, with the noise of a sensor: measures the jitter of a detector",
        periods: 150,
        layers: &[face(Single, &[at(0.0, 300.0, 180.0, 120.0)])],
        noise: 2,
        ..BASE
    },
];
