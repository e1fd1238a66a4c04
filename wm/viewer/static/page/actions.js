// Action states: the game's own names (Slippi's list of action states), and the categories that figures and the time
// line are drawn by.

const NAMES = `
DeadDown DeadLeft DeadRight DeadUp DeadUpStar DeadUpStarIce DeadUpFall DeadUpFallHitCamera DeadUpFallHitCameraFlat
DeadUpFallIce DeadUpFallHitCameraIce Sleep Rebirth RebirthWait Wait WalkSlow WalkMiddle WalkFast Turn TurnRun Dash Run
RunDirect RunBrake KneeBend JumpF JumpB JumpAerialF JumpAerialB Fall FallF FallB FallAerial FallAerialF FallAerialB
FallSpecial FallSpecialF FallSpecialB DamageFall Squat SquatWait SquatRv Landing LandingFallSpecial Attack11 Attack12
Attack13 Attack100Start Attack100Loop Attack100End AttackDash AttackS3Hi AttackS3HiS AttackS3S AttackS3LwS AttackS3Lw
AttackHi3 AttackLw3 AttackS4Hi AttackS4HiS AttackS4S AttackS4LwS AttackS4Lw AttackHi4 AttackLw4 AttackAirN AttackAirF
AttackAirB AttackAirHi AttackAirLw LandingAirN LandingAirF LandingAirB LandingAirHi LandingAirLw DamageHi1 DamageHi2
DamageHi3 DamageN1 DamageN2 DamageN3 DamageLw1 DamageLw2 DamageLw3 DamageAir1 DamageAir2 DamageAir3 DamageFlyHi
DamageFlyN DamageFlyLw DamageFlyTop DamageFlyRoll LightGet HeavyGet LightThrowF LightThrowB LightThrowHi LightThrowLw
LightThrowDash LightThrowDrop LightThrowAirF LightThrowAirB LightThrowAirHi LightThrowAirLw HeavyThrowF HeavyThrowB
HeavyThrowHi HeavyThrowLw LightThrowF4 LightThrowB4 LightThrowHi4 LightThrowLw4 LightThrowAirF4 LightThrowAirB4
LightThrowAirHi4 LightThrowAirLw4 HeavyThrowF4 HeavyThrowB4 HeavyThrowHi4 HeavyThrowLw4 SwordSwing1 SwordSwing3
SwordSwing4 SwordSwingDash BatSwing1 BatSwing3 BatSwing4 BatSwingDash ParasolSwing1 ParasolSwing3 ParasolSwing4
ParasolSwingDash HarisenSwing1 HarisenSwing3 HarisenSwing4 HarisenSwingDash StarRodSwing1 StarRodSwing3 StarRodSwing4
StarRodSwingDash LipStickSwing1 LipStickSwing3 LipStickSwing4 LipStickSwingDash ItemParasolOpen ItemParasolFall
ItemParasolFallSpecial ItemParasolDamageFall LGunShoot LGunShootAir LGunShootEmpty LGunShootAirEmpty FireFlowerShoot
FireFlowerShootAir ItemScrew ItemScrewAir DamageScrew DamageScrewAir ItemScopeStart ItemScopeRapid ItemScopeFire
ItemScopeEnd ItemScopeAirStart ItemScopeAirRapid ItemScopeAirFire ItemScopeAirEnd ItemScopeStartEmpty
ItemScopeRapidEmpty ItemScopeFireEmpty ItemScopeEndEmpty ItemScopeAirStartEmpty ItemScopeAirRapidEmpty
ItemScopeAirFireEmpty ItemScopeAirEndEmpty LiftWait LiftWalk1 LiftWalk2 LiftTurn GuardOn Guard GuardOff GuardSetOff
GuardReflect DownBoundU DownWaitU DownDamageU DownStandU DownAttackU DownFowardU DownBackU DownSpotU DownBoundD
DownWaitD DownDamageD DownStandD DownAttackD DownFowardD DownBackD DownSpotD Passive PassiveStandF PassiveStandB
PassiveWall PassiveWallJump PassiveCeil ShieldBreakFly ShieldBreakFall ShieldBreakDownU ShieldBreakDownD
ShieldBreakStandU ShieldBreakStandD FuraFura Catch CatchPull CatchDash CatchDashPull CatchWait CatchAttack CatchCut
ThrowF ThrowB ThrowHi ThrowLw CapturePulledHi CaptureWaitHi CaptureDamageHi CapturePulledLw CaptureWaitLw
CaptureDamageLw CaptureCut CaptureJump CaptureNeck CaptureFoot EscapeF EscapeB Escape EscapeAir ReboundStop Rebound
ThrownF ThrownB ThrownHi ThrownLw ThrownLwWomen Pass Ottotto OttottoWait FlyReflectWall FlyReflectCeil StopWall
StopCeil MissFoot CliffCatch CliffWait CliffClimbSlow CliffClimbQuick CliffAttackSlow CliffAttackQuick CliffEscapeSlow
CliffEscapeQuick CliffJumpSlow1 CliffJumpSlow2 CliffJumpQuick1 CliffJumpQuick2 AppealR AppealL ShoulderedWait
ShoulderedWalkSlow ShoulderedWalkMiddle ShoulderedWalkFast ShoulderedTurn ThrownFF ThrownFB ThrownFHi ThrownFLw
CaptureCaptain CaptureYoshi YoshiEgg CaptureKoopa CaptureDamageKoopa CaptureWaitKoopa ThrownKoopaF ThrownKoopaB
CaptureKoopaAir CaptureDamageKoopaAir CaptureWaitKoopaAir ThrownKoopaAirF ThrownKoopaAirB CaptureKirby
CaptureWaitKirby ThrownKirbyStar ThrownCopyStar ThrownKirby BarrelWait Bury BuryWait BuryJump DamageSong
DamageSongWait DamageSongRv DamageBind CaptureMewtwo CaptureMewtwoAir ThrownMewtwo ThrownMewtwoAir WarpStarJump
WarpStarFall HammerWait HammerWalk HammerTurn HammerKneeBend HammerFall HammerJump HammerLanding KinokoGiantStart
KinokoGiantStartAir KinokoGiantEnd KinokoGiantEndAir KinokoSmallStart KinokoSmallStartAir KinokoSmallEnd
KinokoSmallEndAir Entry EntryStart EntryEnd DamageIce DamageIceJump
`.trim().split(/\s+/);

/** Up to this action a player is dead. */
export const LAST_DEAD = 10;
/** Up to this action a player is dead, or not there. */
export const LAST_ABSENT = 11;

/** Actions from this one on mean something else for each character. */
export const FIRST_SPECIAL = 341;

/** @type {[string, number, number][]} category, first action, last action */
const RANGES = [
  ["dead", 0, 11], ["rebirth", 12, 13], ["move", 14, 23], ["jump", 24, 28], ["air", 29, 38], ["crouch", 39, 41],
  ["land", 42, 43], ["attack", 44, 69], ["land", 70, 74], ["hit", 75, 91], ["attack", 92, 173], ["move", 174, 177],
  ["shield", 178, 182], ["down", 183, 198], ["tech", 199, 204], ["hit", 205, 211], ["grab", 212, 222],
  ["grabbed", 223, 232], ["dodge", 233, 236], ["land", 237, 238], ["grabbed", 239, 243], ["air", 244, 244],
  ["move", 245, 246], ["hit", 247, 251], ["ledge", 252, 263], ["move", 264, 265], ["grabbed", 266, 304],
  ["move", 305, 324], ["hit", 325, 340], ["special", FIRST_SPECIAL, 9999],
];

/** Categories in the order of the legend. */
export const CATEGORIES = [
  "move", "crouch", "jump", "air", "land", "attack", "special", "grab", "shield", "dodge", "hit", "grabbed", "down", "tech",
  "ledge", "rebirth", "dead",
];

/** @param {number} action @returns {string} the game's name of an action state */
export function actionName(action) {
  return NAMES[action] ?? (action >= FIRST_SPECIAL ? `Special ${action}` : `Action ${action}`);
}

/** @param {number} action @returns {string} one of CATEGORIES */
export function actionCategory(action) {
  const found = RANGES.find(([, first, last]) => action >= first && action <= last);
  return found ? found[0] : "move";
}
