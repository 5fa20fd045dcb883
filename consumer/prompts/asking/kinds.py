"""The built-in grammar's nouns: words for many things, and which things these are."""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.consumer.prompts.asking.english import phrases


@dataclass(frozen=True, slots=True)
class Kind:
    """A word for many things."""

    scene: str
    members: tuple[str, ...]


def _kind(scene: str, members: str) -> Kind:
    return Kind(scene, phrases(members))


KINDS: Mapping[str, Kind] = {
    "bird": _kind(
        "bird",
        """robin; blackbird; sparrow; blue tit; goldfinch; swallow; crow; raven; magpie; pigeon; owl; eagle; falcon;
        buzzard; heron; stork; swan; duck; goose; gull; kingfisher; woodpecker; hummingbird; parrot; flamingo; pelican;
        penguin; peacock; cormorant; wren""",
    ),
    "bird of prey": _kind(
        "bird", "golden eagle; falcon; buzzard; kestrel; red kite; osprey; goshawk; vulture; sparrowhawk; harrier"
    ),
    "owl": _kind("bird", "barn owl; tawny owl; eagle owl; snowy owl; little owl; long-eared owl"),
    "duck": _kind("bird", "mallard; teal; pintail; tufted duck; eider; mandarin duck; shoveler"),
    "dog": _kind(
        "pet",
        """beagle; border collie; boxer; bulldog; chihuahua; cocker spaniel; dachshund; dalmatian; German shepherd;
        golden retriever; greyhound; husky; Labrador; pointer; poodle; pug; rottweiler; terrier; mongrel; sheepdog""",
    ),
    "cat": _kind(
        "pet",
        """tabby cat; black cat; white cat; ginger cat; tortoiseshell cat; Siamese cat; Persian cat; Maine Coon; Bengal
        cat; Sphynx cat; Russian Blue; Norwegian forest cat; British Shorthair; kitten""",
    ),
    "horse": _kind(
        "animal",
        """bay horse; chestnut horse; black horse; white horse; dapple-grey horse; Shetland pony; draught horse; Arab
        horse; foal; racehorse; palomino; Icelandic horse""",
    ),
    "pet": _kind("pet", "dog; cat; rabbit; hamster; guinea pig; budgerigar; tortoise; goldfish; parrot; ferret"),
    "animal": _kind(
        "animal",
        """fox; wolf; bear; deer; hare; squirrel; hedgehog; badger; otter; wild boar; lynx; horse; cow; sheep; goat;
        pig; donkey; elephant; giraffe; zebra; lion; tiger; leopard; monkey; kangaroo; camel; rhinoceros; hippopotamus;
        panda; seal""",
    ),
    "mammal": _kind(
        "animal", "fox; wolf; bear; deer; hare; squirrel; hedgehog; otter; lynx; horse; cow; elephant; lion; seal; bat"
    ),
    "farm animal": _kind("animal", "cow; calf; sheep; lamb; goat; pig; piglet; horse; donkey; hen; cockerel; turkey"),
    "wild animal": _kind(
        "animal", "fox; wolf; bear; deer; hare; badger; otter; wild boar; lynx; elephant; lion; tiger; zebra; moose"
    ),
    "big cat": _kind("animal", "lion; lioness; tiger; leopard; jaguar; cheetah; puma; snow leopard"),
    "monkey": _kind("animal", "macaque; baboon; capuchin; howler monkey; spider monkey; marmoset; mandrill"),
    "reptile": _kind("animal", "lizard; gecko; chameleon; iguana; snake; crocodile; tortoise; turtle; monitor lizard"),
    "snake": _kind("animal", "adder; grass snake; python; cobra; rattlesnake; boa; viper; corn snake"),
    "dinosaur": _kind(
        "animal", "Tyrannosaurus; Triceratops; Stegosaurus; Brachiosaurus; Velociraptor; Ankylosaurus; Diplodocus"
    ),
    "fish": _kind(
        "fish",
        """trout; salmon; carp; pike; perch; goldfish; clownfish; tuna; shark; ray; seahorse; eel; cod; angelfish;
        pufferfish""",
    ),
    "tropical fish": _kind(
        "fish",
        "clownfish; angelfish; lionfish; surgeonfish; butterflyfish; parrotfish; triggerfish; pufferfish; Moorish idol",
    ),
    "insect": _kind(
        "insect",
        """honeybee; bumblebee; wasp; butterfly; moth; dragonfly; ladybird; beetle; grasshopper; cricket; ant; fly;
        mosquito; praying mantis; damselfly; stag beetle""",
    ),
    "butterfly": _kind(
        "insect",
        """peacock butterfly; red admiral; swallowtail; brimstone; small tortoiseshell; monarch; painted lady; orange
        tip; comma; blue morpho""",
    ),
    "flower": _kind(
        "flower",
        """rose; tulip; daisy; sunflower; poppy; lily; iris; daffodil; crocus; lavender plant; dandelion; orchid;
        peony; hydrangea; geranium; cornflower; snowdrop; violet; marigold; dahlia; bluebell; foxglove; water lily""",
    ),
    "wildflower": _kind(
        "flower", "poppy; cornflower; daisy; buttercup; dandelion; bluebell; foxglove; thistle; cowslip; harebell"
    ),
    "tree": _kind(
        "tree",
        """oak; beech; birch; maple; ash tree; lime tree; chestnut tree; willow; poplar; pine; spruce; larch; fir; yew;
        cypress; palm tree; olive tree; apple tree; cherry tree; plane tree; baobab; cedar""",
    ),
    "plant": _kind("flower", "fern; cactus; ivy plant; aloe; bamboo; monstera; rubber plant; thistle; nettle; rose"),
    "mushroom": _kind("flower", "fly agaric; chanterelle; cep; morel; puffball; parasol mushroom; oyster mushroom"),
    "fruit": _kind(
        "produce",
        """apple; pear; orange; lemon; lime; banana; peach; plum; cherry; strawberry; raspberry; pineapple; mango;
        melon; fig; kiwi; pomegranate; apricot; grapefruit; coconut""",
    ),
    "vegetable": _kind(
        "produce",
        """carrot; tomato; potato; onion; cucumber; pepper; aubergine; courgette; pumpkin; cabbage; cauliflower; leek;
        radish; beetroot; artichoke; lettuce; turnip""",
    ),
    "food": _kind(
        "food",
        """loaf of bread; pizza; sandwich; hamburger; bowl of soup; salad; plate of pasta; omelette; pancake; cake;
        pie; croissant; doughnut; sushi roll; curry; taco; cheese board; bowl of rice; roast chicken; apple tart""",
    ),
    "dish": _kind(
        "food", "pizza; bowl of soup; salad; plate of pasta; omelette; curry; stew; risotto; paella; roast chicken; pie"
    ),
    "dessert": _kind(
        "food", "chocolate cake; apple tart; cheesecake; ice-cream sundae; pancake; trifle; tiramisu; crème brûlée"
    ),
    "cake": _kind(
        "food", "chocolate cake; carrot cake; birthday cake; sponge cake; cheesecake; wedding cake; lemon cake"
    ),
    "drink": _kind(
        "drink",
        """cup of coffee; cup of tea; glass of water; glass of orange juice; glass of wine; glass of beer; mug of hot
        chocolate; lemonade; milkshake; cocktail""",
    ),
    "vehicle": _kind(
        "vehicle",
        """car; van; lorry; bus; tram; motorcycle; scooter; bicycle; tractor; fire engine; ambulance; taxi; camper van;
        pickup truck; delivery van; steam locomotive; sports car; digger""",
    ),
    "truck": _kind(
        "vehicle", "articulated lorry; pickup truck; dump truck; fire engine; tanker lorry; refuse lorry; tow truck"
    ),
    "car": _kind(
        "vehicle",
        "hatchback; saloon car; estate car; sports car; convertible; off-road vehicle; vintage car; taxi; racing car",
    ),
    "bicycle": _kind(
        "vehicle",
        "racing bicycle; mountain bike; folding bicycle; tandem; cargo bike; children's bicycle; Dutch bicycle",
    ),
    "train": _kind(
        "vehicle", "steam locomotive; high-speed train; freight train; commuter train; underground train; tram"
    ),
    "boat": _kind(
        "boat",
        """sailing boat; rowing boat; fishing boat; motor boat; canoe; kayak; gondola; ferry; barge; catamaran;
        tugboat; houseboat""",
    ),
    "ship": _kind("boat", "container ship; cruise ship; ferry; tall ship; oil tanker; icebreaker; trawler; warship"),
    "aircraft": _kind(
        "aircraft",
        "airliner; glider; helicopter; biplane; seaplane; hot-air balloon; fighter jet; airship; hang glider",
    ),
    "building": _kind(
        "building",
        """house; church; castle; tower; barn; windmill; lighthouse; temple; mosque; skyscraper; factory; cottage;
        railway station; palace; school; theatre; greenhouse; block of flats""",
    ),
    "house": _kind(
        "building",
        """cottage; farmhouse; terraced house; timber-framed house; log cabin; villa; bungalow; stone house; town
        house; chalet; thatched house""",
    ),
    "bridge": _kind(
        "building",
        "stone bridge; suspension bridge; footbridge; railway viaduct; drawbridge; rope bridge; covered bridge",
    ),
    "instrument": _kind(
        "instrument",
        """violin; cello; guitar; piano; harp; flute; clarinet; saxophone; trumpet; trombone; drum; accordion; banjo;
        xylophone; harmonica""",
    ),
    "tool": _kind(
        "object",
        """hammer; screwdriver; saw; spanner; pair of pliers; chisel; drill; plane; axe; spade; rake; ladder; tape
        measure; paintbrush; file""",
    ),
    "toy": _kind(
        "object",
        """teddy bear; doll; wooden train; toy car; spinning top; kite; building block; rubber duck; puzzle; rocking
        horse; marble; yo-yo; toy robot""",
    ),
    "furniture": _kind(
        "furniture",
        """chair; armchair; table; sofa; bed; bookcase; wardrobe; chest of drawers; desk; stool; bench; cupboard;
        rocking chair""",
    ),
    "chair": _kind(
        "furniture", "armchair; rocking chair; folding chair; office chair; wooden chair; deckchair; high chair"
    ),
    "clothes": _kind(
        "object",
        "shirt; jacket; coat; dress; skirt; pullover; scarf; hat; glove; sock; waistcoat; raincoat; dressing gown; tie",
    ),
    "shoe": _kind("object", "boot; sandal; trainer; slipper; high-heeled shoe; clog; ballet shoe; hiking boot; loafer"),
    "hat": _kind("object", "straw hat; top hat; bowler hat; beret; baseball cap; woollen hat; cowboy hat; bonnet"),
    "household object": _kind(
        "object",
        """teapot; cup; plate; kettle; lamp; clock; vase; mirror; broom; bucket; candle; umbrella; basket; pillow;
        iron; frying pan; toaster""",
    ),
    "object": _kind(
        "object",
        """teapot; book; lamp; clock; vase; chair; umbrella; basket; camera; bottle; key; pair of glasses; suitcase;
        telephone; guitar; ball; candle; hammer; typewriter; globe""",
    ),
    "people": _kind(
        "person",
        """farmer; nurse; baker; carpenter; teacher; painter; fisherman; cook; gardener; musician; student; builder;
        cyclist; shopkeeper; dancer; grandmother; child; postman; scientist; man; woman; boy; girl""",
    ),
    "landscape": _kind(
        "landscape",
        """mountain range; forest; beach; desert; valley; lake; river; waterfall; glacier; moor; meadow; canyon;
        volcano; rocky coast; vineyard; mountain; hill; island; park; garden; pond; swamp; rolling hills""",
    ),
    "digit": _kind("writing", "zero; one; two; three; four; five; six; seven; eight; nine"),
    "letter": _kind("writing", "; ".join(f"letter {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    "shape": _kind(
        "object", "circle; square; triangle; rectangle; pentagon; hexagon; star; cube; sphere; cone; cylinder; pyramid"
    ),
}
"""By their singular."""

OTHER_WORDS: Mapping[str, str] = {
    "person": "people",
    "fungus": "mushroom",
    "tropical fishes": "tropical fish",
    "aeroplane": "aircraft",
    "airplane": "aircraft",
    "plane": "aircraft",
    "lorry": "vehicle",
    "raptor": "bird of prey",
    "songbird": "bird",
    "wild flower": "wildflower",
    "wildlife": "wild animal",
    "creature": "animal",
    "musical instrument": "instrument",
    "clothing": "clothes",
    "clothe": "clothes",
    "bike": "bicycle",
    "automobile": "car",
    "kind of fruit": "fruit",
    "furnishing": "furniture",
    "meal": "dish",
    "number": "digit",
    "numeral": "digit",
    "thing": "object",
    "landform": "landscape",
    "feline": "cat",
    "canine": "dog",
    "pony": "horse",
    "beverage": "drink",
    "building of worship": "building",
    "human": "people",
}
"""Other words for a kind."""

MASS = frozenset(
    phrases(
        """snow; water; grass; rain; fire; smoke; sand; art; music; ice; mud; fog; hair; wood; glass; paper; rice;
        bread; milk; cheese; meat; fruit; traffic; weather; nature; lava; lightning; moss; hay; wheat; wool; silk;
        jewellery; jewelry; pottery; graffiti; cutlery; luggage; rubbish; handwriting; calligraphy; architecture;
        sunlight; dust; coffee; tea; beer; wine; chocolate; honey; sugar; steel; gold; silver; coral; seaweed; ivy;
        bamboo; lace"""
    )
)
"""Nouns that take no article."""
